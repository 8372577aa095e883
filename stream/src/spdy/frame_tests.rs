use super::*;

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
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
            buffer.len() < HEAD + CONTROL_FRAME_MAX,
            "asked for more than a control frame"
        );
    }
    (frames, None)
}

#[test]
fn what_we_write_we_read() {
    let mut bytes = data(1, b"hello", false);
    bytes.extend(data(1, b"", true));
    bytes.extend(reset(3, CANCEL));
    bytes.extend(ping(7));
    bytes.extend(go_away(3));
    let (frames, error) = decode(&bytes, bytes.len());
    assert_eq!(error, None);
    assert_eq!(
        frames,
        [
            Frame::Data {
                stream: 1,
                bytes: Bytes::from_static(b"hello"),
                fin: false
            },
            Frame::Data {
                stream: 1,
                bytes: Bytes::new(),
                fin: true
            },
            Frame::Reset { stream: 3 },
            Frame::Ping { id: 7 },
            Frame::GoAway,
        ]
    );
}

#[test]
fn cuts_do_not_matter() {
    let bytes = data(5, &[7; 1000], true);
    for cut in [1, 3, 8, 9, 500, 1008] {
        let (frames, error) = decode(&bytes, cut);
        assert_eq!(error, None);
        let mut got = 0;
        for (index, frame) in frames.iter().enumerate() {
            let Frame::Data {
                stream: 5,
                bytes,
                fin,
            } = frame
            else {
                panic!("{frame:?}")
            };
            got += bytes.len();
            assert_eq!(*fin, index == frames.len() - 1);
        }
        assert_eq!(got, 1000);
    }
}

#[test]
fn hostile_frames_are_refused() {
    let table: [(&[u8], Malformed); 13] = [
        (&[0, 0, 0, 0, 0, 0, 0, 0], Malformed::StreamZero),
        (&[0x80, 2, 0, 1, 0, 0, 0, 10], Malformed::Version(2)),
        (&[0xff, 0xff, 0, 1, 0, 0, 0, 10], Malformed::Version(0x7fff)),
        (
            &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
            Malformed::TooLong(0x00ff_ffff),
        ),
        (&[0x80, 3, 0, 99, 0, 0x01, 0, 0], Malformed::TooLong(0x1_0000)),
        (
            &[0x80, 3, 0, 1, 0, 0, 0, 3, 0, 0, 1],
            Malformed::Control { kind: 1 },
        ),
        (
            &[0x80, 3, 0, 1, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0],
            Malformed::Control { kind: 1 },
        ),
        (
            &[0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Malformed::StreamZero,
        ),
        (
            &[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1],
            Malformed::Control { kind: 3 },
        ),
        (
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0x80, 0, 0, 0, 0, 0, 0, 1],
            Malformed::StreamZero,
        ),
        (
            &[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff],
            Malformed::Control { kind: 4 },
        ),
        (&[0x80, 3, 0, 6, 0, 0, 0, 0], Malformed::Control { kind: 6 }),
        (
            &[0x80, 3, 0, 9, 0, 0, 0, 4, 0, 0, 0, 1],
            Malformed::Control { kind: 9 },
        ),
    ];
    for (bytes, want) in table {
        assert_eq!(decode(bytes, bytes.len()).1, Some(want), "{bytes:x?}");
        assert!(decode(bytes, 1).1.is_some());
    }
}

#[test]
fn unknown_types_are_skipped() {
    let mut bytes = vec![0x80, 3, 0, 77, 0, 0, 0, 2, 1, 2];
    bytes.extend(ping(1));
    assert_eq!(decode(&bytes, 4).0, [Frame::Ignored, Frame::Ping { id: 1 }]);
}

#[test]
fn random_bytes_do_no_harm() {
    let mut random = Random(0x5eed_5eed_1234_5678);
    for _ in 0..20_000 {
        let mut bytes = Vec::new();
        for _ in 0..=random.below(4) {
            if random.below(4) == 0 {
                bytes.extend((0..random.below(40)).map(|_| random.next().to_le_bytes()[0]));
                continue;
            }
            // A plausible head, so that the payload parsers are reached.
            let kind = random.next().to_le_bytes()[0] % 12;
            let length = random.next().to_le_bytes()[0] % 24;
            bytes.extend([0x80, 3, 0, kind, random.next().to_le_bytes()[0] & 3, 0, 0, length]);
            bytes.extend((0..random.below(24)).map(|_| random.next().to_le_bytes()[0] & 0x83));
        }
        let whole = decode(&bytes, bytes.len().max(1));
        let bits = decode(&bytes, 1 + random.below(7));
        let total = |frames: &[Frame]| -> usize {
            frames
                .iter()
                .map(|frame| {
                    if let Frame::Data { bytes, .. } = frame {
                        bytes.len()
                    } else {
                        0
                    }
                })
                .sum()
        };
        assert_eq!(whole.1, bits.1, "{bytes:x?}");
        assert_eq!(total(&whole.0), total(&bits.0), "{bytes:x?}");
    }
}
