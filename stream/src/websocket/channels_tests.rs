use super::*;

fn feed(channels: &mut Channels, message: &[u8], cut: usize) -> Result<Vec<Event>, Malformed> {
    let parts: Vec<_> = message.chunks(cut.max(1)).collect();
    let mut events = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let event = channels.push(index == 0, Bytes::copy_from_slice(part), index + 1 == parts.len())?;
        events.extend(event);
    }
    Ok(events)
}

fn data(events: &[Event]) -> Vec<(u8, Vec<u8>)> {
    let mut all: Vec<(u8, Vec<u8>)> = Vec::new();
    for event in events {
        let Event::Data(channel, bytes) = event else {
            continue;
        };
        match all.last_mut() {
            Some((last, have)) if last == channel => have.extend_from_slice(bytes),
            _ => all.push((*channel, bytes.to_vec())),
        }
    }
    all
}

#[test]
fn binary_in_any_cut() {
    for cut in 1..8 {
        let mut channels = Channels::new(false, false);
        let events = feed(&mut channels, b"\x00hello", cut).unwrap();
        assert_eq!(data(&events), [(0, b"hello".to_vec())]);
        assert_eq!(
            data(&feed(&mut channels, b"\xffx", cut).unwrap()),
            [(255, b"x".to_vec())]
        );
        assert!(feed(&mut channels, b"\x01", cut).unwrap().is_empty());
    }
}

#[test]
fn base64_in_any_cut() {
    for cut in 1..12 {
        let mut channels = Channels::new(true, false);
        let events = feed(&mut channels, b"0aGVsbG8gd29ybGQ=", cut).unwrap();
        assert_eq!(data(&events), [(0, b"hello world".to_vec())], "cut {cut}");
    }
    for bad in [
        &b"0****"[..],
        b"0aGVsb",
        b"0aGVsbG8=aGVs",
        b"0=",
        b"0\xff\xff\xff\xff",
    ] {
        assert_eq!(
            feed(&mut Channels::new(true, false), bad, 100),
            Err(Malformed::Base64),
            "{bad:?}"
        );
    }
}

#[test]
fn the_close_signal_names_one_channel() {
    for cut in 1..3 {
        let mut channels = Channels::new(false, true);
        assert_eq!(feed(&mut channels, &[255, 0], cut).unwrap(), [Event::Closed(0)]);
        assert_eq!(feed(&mut channels, &[255, 0, 0], cut), Err(Malformed::Close));
        assert_eq!(feed(&mut channels, &[255], cut), Err(Malformed::Close));
    }
}

#[test]
fn random_messages_do_no_harm() {
    let mut seed = 0xfeed_f00d_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    };
    let mut channels = [
        Channels::new(true, false),
        Channels::new(false, true),
        Channels::new(false, false),
    ];
    for _ in 0..20_000 {
        let [length, flags, ..] = random();
        let alphabet = |byte: u8| {
            if flags & 4 == 0 {
                b"ABCabc012=/+"[usize::from(byte) % 12]
            } else {
                byte
            }
        };
        let bytes: Bytes = (0..length % 16).map(|_| alphabet(random()[0])).collect();
        for channels in &mut channels {
            drop(channels.push(flags & 1 != 0, bytes.clone(), flags & 2 != 0));
            assert!(channels.carry.len() < 4);
        }
    }
}
