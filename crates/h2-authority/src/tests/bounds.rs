//! Every bound, at the bound and one past it.

use std::io;

use super::encoder::{Event, frame, integer, read_events};
use super::{adapt, adapt_frames};
use crate::frame::PREFACE;
use crate::{MAX_BLOCK, MAX_CONTINUATIONS, MAX_FIELDS, MAX_FRAME, MAX_LIST, MAX_TABLE, Violation};

fn violation(end: io::Result<()>) -> Option<Violation> {
    let error = end.err()?;
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    error.get_ref()?.downcast_ref().copied()
}

/// A literal of so many bytes on the wire, all in all.
fn literal(len: usize) -> Vec<u8> {
    let mut out = vec![0, 1, b'a'];
    let value = len - 3 - if len > 3 + 127 + 2 { 3 } else { 1 };
    integer(&mut out, 0, 7, value);
    out.extend(vec![b'v'; value]);
    assert_eq!(out.len(), len);
    out
}

fn headers(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, 1, flags, 1, payload);
    out
}

fn with_continuations(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = headers(0, parts[0]);
    for (i, part) in parts.iter().enumerate().skip(1) {
        frame(
            &mut out,
            9,
            if i + 1 == parts.len() { 4 } else { 0 },
            1,
            part,
        );
    }
    out
}

/// A block whose list is of so many bytes, out of one entry of the dynamic table.
fn list_of(size: usize) -> Vec<u8> {
    let entry = 1024;
    let mut block = vec![0x40, 1, b'a'];
    integer(&mut block, 0, 7, entry - 33);
    block.extend(vec![b'v'; entry - 33]);
    let last = size % entry;
    block.extend(vec![0x80 | 62; size / entry - 1 - usize::from(last < 64)]);
    let last = if last < 64 { last + entry } else { last };
    block.extend([0, 1, b'b']);
    integer(&mut block, 0, 7, last - 33);
    block.extend(vec![b'w'; last - 33]);
    block
}

#[test]
fn each_bound_holds_up_to_its_last_byte() {
    let full = literal(MAX_BLOCK);
    let (left, right) = full.split_at(MAX_BLOCK / 2);
    let mut many = vec![&b""[..]; MAX_CONTINUATIONS + 1];
    let field = literal(40);
    many[0] = &field;
    let table = [&[0x3f, 0xe1, 0x1f][..], &field].concat(); // 4096
    let cases = [
        ("frame and block", headers(4, &full)),
        ("block in parts", with_continuations(&[left, right])),
        ("continuations", with_continuations(&many)),
        ("fields", headers(4, &[0x82].repeat(MAX_FIELDS))),
        ("list", headers(4, &list_of(MAX_LIST))),
        ("table", headers(4, &table)),
        ("all padding", headers(4 | 8, &[3, 0, 0, 0])),
        (
            "a long frame of another kind",
            [&[1, 0, 0, 0, 0, 0, 0, 0, 1][..], &[7; 65536]].concat(),
        ),
    ];
    for (name, sent) in cases {
        assert!(adapt_frames(&sent).1.is_ok(), "{name}");
    }
}

#[test]
fn one_past_a_bound_ends_the_connection() {
    let full = literal(MAX_BLOCK);
    let (left, right) = full.split_at(MAX_BLOCK / 2);
    let extra = [right, b"x"].concat();
    let many = vec![&b""[..]; MAX_CONTINUATIONS + 2];
    let field = literal(40);
    let mut interrupted = headers(0, &field);
    frame(&mut interrupted, 6, 0, 0, &[0; 8]);
    let mut other_stream = headers(0, &field);
    frame(&mut other_stream, 9, 4, 3, &field);
    let mut twice = headers(0, &field);
    twice.extend(headers(4, &field));
    let mut push = Vec::new();
    frame(&mut push, 5, 4, 1, &[0, 0, 0, 2, 0x82]);
    let mut stray = Vec::new();
    frame(&mut stray, 9, 4, 1, &field);
    let cases = [
        (Violation::FrameTooLong, headers(4, &vec![0; MAX_FRAME + 1])),
        (Violation::BlockTooLong, with_continuations(&[left, &extra])),
        (Violation::TooManyContinuations, with_continuations(&many)),
        (
            Violation::TooManyFields,
            headers(4, &[0x82].repeat(MAX_FIELDS + 1)),
        ),
        (Violation::ListTooLong, headers(4, &list_of(MAX_LIST + 1))),
        (Violation::Interrupted, interrupted),
        (Violation::Interrupted, other_stream),
        (Violation::Interrupted, twice),
        (Violation::StrayContinuation, stray),
        (Violation::Push, push),
        (Violation::Padding, headers(4 | 8, &[])),
        (Violation::Padding, headers(4 | 8, &[4, 0, 0, 0])),
        (Violation::Padding, headers(4 | 0x20, &[0, 0, 0, 1])),
        (Violation::Hpack, headers(4, &[0x3f])),
        (Violation::Hpack, headers(4, &[0x80])),
        (Violation::Hpack, headers(4, &[0x80 | 62])),
        (
            Violation::Hpack,
            headers(4, &[&[0x3f, 0xe2, 0x1f][..], &field].concat()),
        ), // 4097
        (Violation::Hpack, headers(4, &[0, 1, b'a', 2, b'b'])),
        (Violation::Hpack, headers(4, &[0, 1, b'a', 0x81, 0])), // not a Huffman code
        (
            Violation::Hpack,
            headers(4, &[0xff, 0x80, 0x80, 0x80, 0x80, 0]),
        ),
    ];
    assert_eq!(MAX_TABLE, 4096);
    for (i, (awaited, sent)) in cases.into_iter().enumerate() {
        let (got, end) = adapt_frames(&sent);
        assert_eq!(violation(end), Some(awaited), "case {i}");
        assert_eq!(got, [], "case {i}");
        let (_, end) = adapt(&[PREFACE, &sent].concat(), &[1], 1);
        assert_eq!(violation(end), Some(awaited), "case {i}, byte by byte");
    }
}

#[test]
fn what_came_before_a_violation_is_delivered_first() {
    let mut sent = Vec::new();
    frame(&mut sent, 0, 0, 1, b"body");
    sent.extend(headers(4, &[0x82]));
    frame(&mut sent, 0, 1, 1, b"more");
    let before = sent.clone();
    sent.extend(headers(4, &[0x80]));
    sent.extend(headers(4, &[0x82]));
    for read in [1, 9, 1 << 16] {
        let (got, end) = adapt(&[PREFACE, &sent].concat(), &[usize::MAX], read);
        assert_eq!(violation(end), Some(Violation::Hpack));
        let (awaited, end) = adapt_frames(&before);
        end.unwrap();
        assert_eq!(got.strip_prefix(PREFACE), Some(&awaited[..]));
    }
}

#[test]
fn a_large_list_is_written_in_frames_that_h2_takes() {
    let (got, end) = adapt_frames(&headers(
        5 | 0x20,
        &[&[9; 5][..], &list_of(MAX_LIST)].concat(),
    ));
    end.unwrap();
    assert!(got.len() > 3 * MAX_FRAME, "more than h2 takes in one frame");
    let events = read_events(&got);
    let [
        Event::Headers {
            end_stream: true,
            priority: Some([9, 9, 9, 9, 9]),
            list,
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(
        list.iter()
            .map(|(n, v)| n.len() + v.len() + 32)
            .sum::<usize>(),
        MAX_LIST
    );
}

#[test]
fn a_client_that_leaves_inside_a_header_is_no_clean_end() {
    let block = headers(4, &literal(40));
    for cut in 1..block.len() {
        let (got, end) = adapt_frames(&block[..cut]);
        assert_eq!(got, []);
        assert_eq!(
            end.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof,
            "after {cut} bytes"
        );
    }
    assert!(adapt_frames(&[]).1.is_ok());
    // Inside other frames the server sees for itself that something is missing.
    assert!(adapt_frames(&[0, 0, 9, 0, 0, 0, 0, 0, 1, 7]).1.is_ok());
}
