use super::*;
use flate2::{Compress, Compression, FlushCompress};

struct Deflater(Compress);

impl Deflater {
    fn new() -> Self {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&dictionary()).unwrap();
        Self(zlib)
    }

    fn deflate(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plain.len() + 1024];
        let (read, written) = (self.0.total_in(), self.0.total_out());
        self.0.compress(plain, &mut out, FlushCompress::Sync).unwrap();
        assert_eq!(usize::try_from(self.0.total_in() - read).unwrap(), plain.len());
        out.truncate(usize::try_from(self.0.total_out() - written).unwrap());
        out
    }
}

fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        block.extend(text.as_bytes());
    }
    block
}

#[test]
fn blocks_of_one_connection_share_their_window() {
    let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
    for index in 0..50 {
        let request = index.to_string();
        let block = block(&[("streamtype", "data"), ("port", "8080"), ("requestid", &request)]);
        let packed = deflater.deflate(&block);
        let headers = parse(&inflater.inflate(&packed).unwrap()).unwrap();
        assert_eq!(value(&headers, "streamtype"), Some("data"));
        assert_eq!(value(&headers, "requestid"), Some(request.as_str()));
        assert_eq!(value(&headers, "host"), None);
    }
}

#[test]
fn stored_blocks_inflate_to_no_headers() {
    let (mut storer, mut inflater) = (Storer::default(), Inflater::new());
    for _ in 0..3 {
        assert_eq!(inflater.inflate(&storer.empty()).unwrap(), [0; 4]);
    }
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let mut deflater = Deflater::new();
    let bomb = deflater.deflate(&vec![0; 64 << 20]);
    assert_eq!(Inflater::new().inflate(&bomb), Err(Refused::TooLong));
    let edge = Deflater::new().deflate(&[7; BLOCK_MAX]);
    assert_eq!(Inflater::new().inflate(&edge).unwrap().len(), BLOCK_MAX);
}

#[test]
fn wrong_compression_is_refused() {
    let garbage: [&[u8]; 4] = [
        b"\xff\xff\xff\xff",
        b"\x78\x9c\xff\xff\xff",
        b"\x78\xbb\0\0\0\0\0\0",
        b"\x1f\x8b\x08\0",
    ];
    for bytes in garbage {
        assert_eq!(
            Inflater::new().inflate(bytes),
            Err(Refused::Compression),
            "{bytes:x?}"
        );
    }
}

#[test]
fn hostile_blocks_are_refused() {
    let long = [&1u32.to_be_bytes()[..], &u32::MAX.to_be_bytes(), b"x"].concat();
    let table: [(&[u8], Refused); 6] = [
        (&[0, 0, 0], Refused::Malformed),
        (&[0xff, 0xff, 0xff, 0xff], Refused::TooMany(u32::MAX)),
        (&[0, 0, 0, 33], Refused::TooMany(33)),
        (&[0, 0, 0, 1], Refused::Malformed),
        (&long, Refused::Malformed),
        (&[0, 0, 0, 0, 9], Refused::Malformed),
    ];
    for (bytes, want) in table {
        assert_eq!(parse(bytes), Err(want), "{bytes:x?}");
    }
}

#[test]
fn random_blocks_do_no_harm() {
    let mut seed = 0x1234_5678_9abc_def0_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    };
    let good = Deflater::new().deflate(&block(&[("streamtype", "error"), ("port", "80")]));
    for _ in 0..20_000 {
        let mut packed = good.clone();
        for _ in 0..1 + random()[0] % 4 {
            let [at, byte, ..] = random();
            let at = usize::from(at) % packed.len();
            packed[at] = byte;
        }
        if let Ok(plain) = Inflater::new().inflate(&packed) {
            assert!(plain.len() <= BLOCK_MAX);
            drop(parse(&plain));
        }
        let mut plain = block(&[("streamtype", "error"), ("port", "80")]);
        let [at, byte, cut, ..] = random();
        let length = plain.len();
        plain[usize::from(at) % length] = byte;
        plain.truncate(usize::from(cut) % (length + 1));
        drop(parse(&plain));
    }
}
