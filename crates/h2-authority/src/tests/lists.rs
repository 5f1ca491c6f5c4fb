//! Header lists come out as they went in, but for an invalid authority.

use proptest::collection::vec;
use proptest::prelude::*;

use super::encoder::{Encoder, Event, Field, How, Kind, frame, read_events};
use super::{adapt, adapt_frames};
use crate::frame::PREFACE;

/// Authorities, and whether RFC 3986 lets them stand.
const AUTHORITIES: &[(&str, bool)] = &[
    ("localhost", true),
    ("example.org:8443", true),
    ("[::1]:80", true),
    ("run%2Ftaskmint%2Fagent.sock", false),
    ("/run/taskmint/agent.sock", false),
    ("run/agent.sock", false),
    ("two words", false),
    ("", false),
    ("\u{e9}", false),
];

#[derive(Debug, Clone)]
struct Block {
    authority: Option<usize>,
    fields: Vec<(Field, How)>,
    head: How,
    resize: Option<usize>,
    padding: Option<u8>,
    priority: Option<[u8; 5]>,
    end_stream: bool,
    cuts: Vec<usize>,
    /// Payload of a DATA frame that follows.
    data: Vec<u8>,
}

fn how() -> impl Strategy<Value = How> {
    let kind = prop_oneof![
        Just(Kind::Incremental),
        Just(Kind::Without),
        Just(Kind::Never)
    ];
    (any::<bool>(), any::<bool>(), kind, any::<bool>()).prop_map(
        |(indexed, name_indexed, kind, huffman)| How {
            indexed,
            name_indexed,
            kind,
            huffman,
        },
    )
}

fn field() -> impl Strategy<Value = Field> {
    let known = prop_oneof![
        Just((":method", "POST")),
        Just((":scheme", "http")),
        Just((":path", "/SpiffeWorkloadAPI/FetchX509SVID")),
        Just(("content-type", "application/grpc")),
        Just(("te", "trailers")),
        Just(("workload.spiffe.io", "true")),
    ]
    .prop_map(|(name, value)| (name.into(), value.into()));
    let free = ("[a-z-]{1,12}", vec(any::<u8>(), 0..300));
    prop_oneof![3 => known, 2 => free.prop_map(|(name, value)| (name.into_bytes(), value))]
}

fn block() -> impl Strategy<Value = Block> {
    (
        (
            proptest::option::of(0..AUTHORITIES.len()),
            vec((field(), how()), 0..12),
            how(),
            proptest::option::weighted(0.2, 0_usize..=4096),
        ),
        (
            proptest::option::of(any::<u8>()),
            proptest::option::of(any::<[u8; 5]>()),
            any::<bool>(),
            vec(0_usize..2000, 0..4),
            vec(any::<u8>(), 0..100),
        ),
    )
        .prop_map(|((authority, fields, head, resize), rest)| {
            let (padding, priority, end_stream, cuts, data) = rest;
            let any_field = authority.is_some() || !fields.is_empty();
            // A block may not end with a new table size.
            let resize = resize.filter(|_| any_field);
            Block {
                authority,
                fields,
                head,
                resize,
                padding,
                priority,
                end_stream,
                cuts,
                data,
            }
        })
}

/// Writes a block as a client would; says what the server is to find.
fn write(block: &Block, stream: u32, encoder: &mut Encoder, out: &mut Vec<u8>) -> Vec<Event> {
    let mut coded = Vec::new();
    let mut list = Vec::new();
    if let Some(max) = block.resize {
        encoder.resize(max, &mut coded);
    }
    if let Some(i) = block.authority {
        let (authority, valid) = AUTHORITIES[i];
        let sent = (b":authority".to_vec(), authority.as_bytes().to_vec());
        encoder.field(&sent, block.head, &mut coded);
        list.push((sent.0, if valid { sent.1 } else { b"localhost".to_vec() }));
    }
    for (field, how) in &block.fields {
        encoder.field(field, *how, &mut coded);
        list.push(field.clone());
    }
    write_frames(block, stream, &coded, out);
    frame(out, 0, 0, stream, &block.data);
    let (end_stream, priority) = (block.end_stream, block.priority);
    vec![
        Event::Headers {
            stream,
            end_stream,
            priority,
            list,
        },
        Event::Other {
            kind: 0,
            flags: 0,
            stream,
            payload: block.data.clone(),
        },
    ]
}

fn write_frames(block: &Block, stream: u32, coded: &[u8], out: &mut Vec<u8>) {
    let mut cuts: Vec<usize> = block
        .cuts
        .iter()
        .map(|cut| cut % (coded.len() + 1))
        .collect();
    cuts.extend([0, coded.len()]);
    cuts.sort_unstable();
    let parts: Vec<&[u8]> = cuts
        .windows(2)
        .map(|pair| &coded[pair[0]..pair[1]])
        .collect();
    for (i, part) in parts.iter().enumerate() {
        let mut flags = if i + 1 == parts.len() { 4 } else { 0 };
        if i > 0 {
            frame(out, 9, flags, stream, part);
            continue;
        }
        let mut payload = Vec::new();
        flags |= u8::from(block.end_stream);
        if let Some(padding) = block.padding {
            flags |= 8;
            payload.push(padding);
        }
        if let Some(priority) = block.priority {
            flags |= 0x20;
            payload.extend(priority);
        }
        payload.extend(*part);
        payload.extend(vec![0; block.padding.unwrap_or(0).into()]);
        frame(out, 1, flags, stream, &payload);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn lists_come_out_as_they_went_in_but_for_the_authority(
        blocks in vec(block(), 1..6),
        sizes in vec(1_usize..200, 1..8),
        read in 1_usize..500,
    ) {
        let mut encoder = Encoder::new();
        let mut sent = PREFACE.to_vec();
        frame(&mut sent, 4, 0, 0, &[]);
        let mut awaited = vec![Event::Other { kind: 4, flags: 0, stream: 0, payload: vec![] }];
        for (i, block) in blocks.iter().enumerate() {
            awaited.extend(write(block, 2 * i as u32 + 1, &mut encoder, &mut sent));
        }
        for (sizes, read) in [(&sizes[..], read), (&[1], read), (&[usize::MAX], 1 << 16)] {
            let (got, end) = adapt(&sent, sizes, read);
            prop_assert!(end.is_ok(), "{end:?}");
            prop_assert_eq!(read_events(got.strip_prefix(PREFACE).unwrap()), awaited.clone());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_depend_on_how_they_are_cut(
        frames in vec((0_u8..12, any::<u8>(), 0_u32..4, vec(any::<u8>(), 0..60)), 0..8),
        tail in vec(any::<u8>(), 0..40),
        sizes in vec(1_usize..40, 1..5),
        read in 1_usize..60,
        preface in any::<bool>(),
    ) {
        let mut sent = if preface { PREFACE.to_vec() } else { vec![] };
        for (kind, flags, stream, payload) in &frames {
            frame(&mut sent, *kind, *flags, *stream, payload);
        }
        sent.extend(tail);
        let (whole, end) = adapt(&sent, &[usize::MAX], 1 << 20);
        let (cut, cut_end) = adapt(&sent, &sizes, read);
        prop_assert_eq!(&whole, &cut);
        let text = |end: std::io::Result<()>| end.map_err(|error| error.to_string());
        prop_assert_eq!(text(end), text(cut_end));
        if !preface && !sent.starts_with(b"PRI") {
            prop_assert_eq!(whole, sent);
        }
    }
}

/// Three calls of the Python client, the second and third out of its dynamic table.
#[test]
fn what_grpcio_writes_arrives_with_an_authority_in_every_request() {
    let sent = include_bytes!("grpcio-1.85.1.bin");
    let (got, end) = adapt(sent, &[7, 100, 3], 33);
    end.unwrap();
    let authorities: Vec<_> = read_events(got.strip_prefix(PREFACE).unwrap())
        .into_iter()
        .filter_map(|event| match event {
            Event::Headers { stream, list, .. } => Some((stream, list)),
            Event::Other { .. } => None,
        })
        .map(|(stream, list)| {
            assert_eq!(list.len(), 10);
            assert_eq!(list[0].1, b"/SpiffeWorkloadAPI/FetchX509SVID");
            assert_eq!(list[9], (b"workload.spiffe.io".to_vec(), b"true".to_vec()));
            (stream, list[1].clone())
        })
        .collect();
    let localhost = (b":authority".to_vec(), b"localhost".to_vec());
    assert_eq!(
        authorities,
        [1, 3, 5].map(|stream| (stream, localhost.clone()))
    );
}

#[test]
fn trailers_pass_in_their_place() {
    let mut sent = Vec::new();
    frame(&mut sent, 0, 0, 1, b"body");
    frame(&mut sent, 1, 5, 1, b"\x40\x01a\x01b");
    let (got, end) = adapt_frames(&sent);
    end.unwrap();
    let data = Event::Other {
        kind: 0,
        flags: 0,
        stream: 1,
        payload: b"body".to_vec(),
    };
    let list = vec![(b"a".to_vec(), b"b".to_vec())];
    let trailers = Event::Headers {
        stream: 1,
        end_stream: true,
        priority: None,
        list,
    };
    assert_eq!(read_events(&got), [data, trailers]);
}

#[test]
fn a_client_of_http_1_passes_untouched() {
    for sent in [
        &b"GET / HTTP/1.1\r\nhost: /run/x.sock\r\n\r\n"[..],
        b"PRI * HTTP/1.1\r\n\r\n",
    ] {
        let (got, end) = adapt(sent, &[3], 5);
        assert!(end.is_ok());
        assert_eq!(got, sent);
    }
}
