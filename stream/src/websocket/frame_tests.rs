use super::*;

fn client(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![first];
    match payload.len() {
        short if short < 126 => frame.push(0x80 | u8::try_from(short).unwrap()),
        medium if medium < 65536 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

fn decode(bytes: &[u8], cut: usize) -> (Vec<Frame>, Option<Malformed>) {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for part in bytes.chunks(cut) {
        buffer.extend_from_slice(part);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(
            buffer.len() < 14 + CONTROL_MAX,
            "asked for more than a control frame"
        );
    }
    (frames, None)
}

/// Messages put together again.
fn messages(frames: &[Frame]) -> Vec<Vec<u8>> {
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for frame in frames {
        if let Frame::Data { first, bytes, .. } = frame {
            if *first {
                messages.push(Vec::new());
            }
            messages.last_mut().unwrap().extend_from_slice(bytes);
        }
    }
    messages
}

#[test]
fn messages_of_every_length_in_every_cut() {
    for length in [0, 1, 5, 125, 126, 127, 65535, 65536, 100_000] {
        let payload: Vec<u8> = (0..length).map(|index: u32| index.to_le_bytes()[0]).collect();
        let bytes = client(FIN | BINARY, &payload);
        for cut in [1, 2, 3, 7, 4096, bytes.len()] {
            let (frames, error) = decode(&bytes, cut);
            assert_eq!(error, None);
            assert_eq!(
                messages(&frames),
                [payload.as_slice()],
                "length {length} cut {cut}"
            );
            let Some(Frame::Data { last: true, .. }) = frames.last() else {
                panic!("no end: {frames:?}")
            };
        }
    }
}

#[test]
fn fragments_with_a_ping_between() {
    let bytes = [
        client(TEXT, b"he"),
        client(FIN | PING, b"p"),
        client(CONTINUATION, b""),
        client(FIN | CONTINUATION, b"llo"),
        client(FIN | CLOSE, &[3, 232]),
    ]
    .concat();
    let (frames, error) = decode(&bytes, bytes.len());
    assert_eq!(error, None);
    assert_eq!(messages(&frames), [b"hello"]);
    assert!(frames.contains(&Frame::Ping(Bytes::from_static(b"p"))));
    assert_eq!(frames.last(), Some(&Frame::Close));
}

#[test]
fn hostile_frames_are_refused() {
    let table: [(&[u8], Malformed); 10] = [
        (&[0xc2, 0x80, 0, 0, 0, 0], Malformed::Reserved),
        (&[0x83, 0x80, 0, 0, 0, 0], Malformed::Reserved),
        (&[0x8b, 0x80, 0, 0, 0, 0], Malformed::Reserved),
        (&[0x82, 0x05, 1, 2, 3, 4, 5], Malformed::Unmasked),
        (&[0x80, 0x80, 0, 0, 0, 0], Malformed::Order),
        (
            &[0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0],
            Malformed::Order,
        ),
        (&[0x09, 0x80, 0, 0, 0, 0], Malformed::Control),
        (&[0x89, 0xfe, 0, 126, 0, 0, 0, 0], Malformed::Control),
        (
            &[0x88, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Malformed::Control,
        ),
        (
            &[
                0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
            ],
            Malformed::Length,
        ),
    ];
    for (bytes, want) in table {
        assert_eq!(decode(bytes, bytes.len()).1, Some(want), "{bytes:x?}");
        assert!(decode(bytes, 1).1.is_some(), "{bytes:x?}");
    }
}

#[test]
fn a_huge_frame_is_passed_on_as_it_comes() {
    let mut bytes = vec![
        0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
    ];
    bytes.extend([9; 5000]);
    let (frames, error) = decode(&bytes, 1000);
    assert_eq!(error, None);
    assert_eq!(messages(&frames), [[9; 5000]]);
}

#[test]
fn random_bytes_do_no_harm() {
    let mut seed = 0x0dd_ba11_5eed_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    };
    for _ in 0..20_000 {
        let mut bytes = Vec::new();
        for _ in 0..random()[0] % 5 {
            let [first, length, noise, plausible, ..] = random();
            let first = if plausible & 3 == 0 {
                first
            } else {
                first & 0x8f & !(4 | 2)
            };
            if noise & 7 == 0 {
                bytes.extend(random());
            } else {
                bytes.extend(client(first, &vec![noise; usize::from(length)]));
            }
        }
        let cut = 1 + usize::from(random()[0]);
        let (whole, bits) = (decode(&bytes, bytes.len().max(1)), decode(&bytes, cut));
        assert_eq!(whole.1, bits.1, "{bytes:x?}");
        assert_eq!(messages(&whole.0), messages(&bits.0), "{bytes:x?}");
    }
}

#[test]
fn what_we_write_has_the_right_length() {
    assert_eq!(binary(&[&[1], b"ab"]), [0x82, 3, 1, b'a', b'b']);
    assert_eq!(text(3, "QQ=="), b"\x81\x053QQ==");
    assert_eq!(close(1000), [0x88, 2, 3, 232]);
    assert_eq!(binary(&[&[0; 126]])[..4], [0x82, 126, 0, 126]);
    assert_eq!(binary(&[&[0; 65536]])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
}
