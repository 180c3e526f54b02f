use proptest::prelude::*;

use super::*;

fn key(down: bool, key: u32) -> Vec<u8> {
    [&[KEY, u8::from(down), 0, 0][..], &key.to_be_bytes()].concat()
}

fn pointer(buttons: u8, x: u16, y: u16) -> Vec<u8> {
    [&[POINTER, buttons][..], &x.to_be_bytes(), &y.to_be_bytes()].concat()
}

fn encodings(list: &[i32]) -> Vec<u8> {
    let mut message = vec![SET_ENCODINGS, 0];
    message.extend((list.len() as u16).to_be_bytes());
    message.extend(list.iter().flat_map(|encoding| encoding.to_be_bytes()));
    message
}

fn cut(text: &[u8]) -> Vec<u8> {
    [&[CUT_TEXT, 0, 0, 0][..], &(text.len() as u32).to_be_bytes(), text].concat()
}

fn extended_cut(flags: u32, more: &[u8]) -> Vec<u8> {
    let length = -i32::try_from(4 + more.len()).expect("short");
    [&[CUT_TEXT, 0, 0, 0][..], &length.to_be_bytes(), &flags.to_be_bytes(), more].concat()
}

fn resize(width: u16, height: u16) -> Vec<u8> {
    [&[SET_DESKTOP_SIZE, 0][..], &width.to_be_bytes(), &height.to_be_bytes(), &[1, 0], &[7; 16]].concat()
}

/// Messages that only ask.
fn asking() -> Vec<Vec<u8>> {
    vec![
        [&[SET_PIXEL_FORMAT][..], &[0; 19]].concat(),
        encodings(&[7, 5, 0, -308, -313]),
        [&[UPDATE_REQUEST, 1][..], &[0; 8]].concat(),
        [&[CONTINUOUS_UPDATES, 1][..], &[0; 8]].concat(),
        [&[FENCE, 0, 0, 0, 0, 0, 0, 1, 3][..], b"abc"].concat(),
        // Capabilities of the clipboard, and a request for what the desktop has.
        extended_cut(CAPS | REQUEST | 1, &[0; 4]),
        extended_cut(CAPS | 0b101, &[0; 8]),
        extended_cut(REQUEST | 1, &[]),
        extended_cut(PEEK, &[]),
    ]
}

/// Messages that change the desktop.
fn typing() -> Vec<Vec<u8>> {
    vec![
        key(true, 0x61),
        key(false, 0x61),
        pointer(1, 10, 20),
        pointer(0, 11, 20),
        cut(b"pasted"),
        extended_cut(NOTIFY | 1, &[]),
        extended_cut(PROVIDE | 1, b"packed"),
        resize(800, 600),
        [&[QEMU, QEMU_KEY, 0, 1][..], &0x62_u32.to_be_bytes(), &48_u32.to_be_bytes()].concat(),
        [&[QEMU, QEMU_KEY, 0, 0][..], &0x62_u32.to_be_bytes(), &48_u32.to_be_bytes()].concat(),
    ]
}

fn passed(filter: &mut Filter, bytes: &[u8], may_type: bool) -> Vec<u8> {
    let mut out = Vec::new();
    filter.take(bytes, may_type, &mut out).expect("a viewer's message");
    out
}

fn begun() -> Filter {
    let mut filter = Filter::default();
    assert_eq!(passed(&mut filter, &[0], true), [1], "a desktop is always shared");
    filter
}

#[test]
fn who_may_type_is_heard_and_who_may_not_still_sees() {
    for message in asking() {
        for may_type in [true, false] {
            assert_eq!(passed(&mut begun(), &message, may_type), message, "{message:?}");
        }
    }
    for message in typing() {
        assert_eq!(passed(&mut begun(), &message, true), message, "{message:?}");
        // No display takes a size without a screen, and each answers.
        let told = if message[0] == SET_DESKTOP_SIZE { &NO_SIZE[..] } else { &[] };
        assert_eq!(passed(&mut begun(), &message, false), told, "{message:?}");
    }
}

#[test]
fn nobody_shuts_the_display_down() {
    assert_eq!(passed(&mut begun(), &[XVP, 0, 1, 2], true), [0; 0]);
}

#[test]
fn what_would_change_the_length_of_messages_is_not_offered() {
    let offered = encodings(&[7, EXTENDED_BUTTONS, -223, GII, 0]);
    assert_eq!(passed(&mut begun(), &offered, false), encodings(&[7, -223, 0]));
}

#[test]
fn a_message_is_whole_or_not_there_although_the_lease_changes_within_it() {
    let (mut filter, text) = (begun(), cut(b"pasted"));
    let (head, rest) = text.split_at(9);
    assert_eq!(passed(&mut filter, head, true), head);
    assert_eq!(passed(&mut filter, rest, false), rest, "it was let in");
    assert_eq!(passed(&mut filter, head, false), [0; 0]);
    assert_eq!(passed(&mut filter, rest, true), [0; 0], "it was not");
    assert_eq!(passed(&mut filter, &key(true, 1), true), key(true, 1));
}

#[test]
fn who_loses_the_lease_holds_nothing_down() {
    let mut filter = begun();
    let held = [key(true, 0x61), key(true, 0xffe1), key(true, 0x62), key(false, 0x62), pointer(1, 10, 20)].concat();
    passed(&mut filter, &held, true);
    let mut out = Vec::new();
    filter.let_go(&mut out).expect("between two messages");
    assert_eq!(out, [key(false, 0x61), key(false, 0xffe1), pointer(0, 10, 20)].concat());
    out.clear();
    filter.let_go(&mut out).expect("between two messages");
    assert_eq!(out, [0; 0], "once");
}

#[test]
fn keys_with_codes_are_let_go_by_their_codes() {
    let qemu = |down: u16, symbol: u32, code: u32| {
        [&[QEMU, QEMU_KEY][..], &down.to_be_bytes(), &symbol.to_be_bytes(), &code.to_be_bytes()].concat()
    };
    let mut filter = begun();
    // Any down but zero is one, for displays.
    passed(&mut filter, &[qemu(0x0100, 0xffe3, 29), qemu(1, 0x61, 30), qemu(0, 0x61, 30)].concat(), true);
    let mut out = Vec::new();
    filter.let_go(&mut out).expect("between two messages");
    assert_eq!(out, qemu(0, 0xffe3, 29));
    // Nobody holds more than is known how to release.
    let many: Vec<u8> = (0..100).flat_map(|symbol| key(true, symbol)).collect();
    assert_eq!(passed(&mut filter, &many, true).len(), MAX_KEYS * 8);
    out.clear();
    filter.let_go(&mut out).expect("between two messages");
    assert_eq!(out.len(), MAX_KEYS * 8);
}

#[test]
fn in_the_middle_of_a_message_nothing_else_is_said() {
    let (mut filter, text) = (begun(), cut(b"pasted"));
    passed(&mut filter, &key(true, 0x61), true);
    passed(&mut filter, &text[..10], true);
    assert_eq!(filter.let_go(&mut Vec::new()), Err(Fault::Midway));
}

/// A display reads of the clipboard's extension what the flags say, whatever the length is: what is left would be read
/// as messages of its own.
#[test]
fn no_key_hides_behind_a_clipboard_message() {
    for (flags, more) in [
        (REQUEST, &key(true, 0x61)[..]),
        (PEEK, &key(true, 0x61)),
        (NOTIFY, &key(true, 0x61)),
        (CAPS | 1, &[&[0; 4][..], &key(true, 0x61)].concat()),
        (CAPS | 1, &[]),
        (CAPS | 0b11, &[0; 4]),
        (REQUEST | NOTIFY, &[]),
        (0, &[]),
        (1 << 29, &[]),
    ] {
        let refused = begun().take(&extended_cut(flags, more), true, &mut Vec::new());
        assert_eq!(refused, Err(Fault::CutText), "{flags:x} and {} bytes", more.len());
    }
}

#[test]
fn what_no_viewer_sends_closes_it() {
    let fault = |bytes: &[u8]| begun().take(bytes, true, &mut Vec::new()).expect_err("not a viewer's message");
    assert_eq!(fault(&[1, 0, 0]), Fault::Unknown(1));
    assert_eq!(fault(&[253]), Fault::Unknown(253));
    assert_eq!(fault(&[QEMU, 1, 0, 0]), Fault::Unknown(QEMU));
    assert_eq!(fault(&[SET_ENCODINGS, 0, 0xff, 0xff]), Fault::TooLong(SET_ENCODINGS));
    assert_eq!(fault(&[CUT_TEXT, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]), Fault::TooLong(CUT_TEXT));
    assert_eq!(fault(&[CUT_TEXT, 0, 0, 0, 0x80, 0, 0, 0]), Fault::TooLong(CUT_TEXT));
    assert_eq!(fault(&[CUT_TEXT, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]), Fault::CutText);
    assert_eq!(fault(&[FENCE, 0, 0, 0, 0, 0, 0, 0, 65]), Fault::TooLong(FENCE));
}

proptest! {
    #[test]
    fn pieces_make_no_difference(
        order in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..20),
        cuts in prop::collection::vec(1_usize..9, 1..40),
    ) {
        let all: Vec<Vec<u8>> = asking().into_iter().chain(typing()).collect();
        let messages: Vec<_> = order.iter().map(|(index, may_type)| (index.get(&all).clone(), *may_type)).collect();
        let (mut whole, mut cut) = (begun(), begun());
        for (message, may_type) in messages {
            let expected = passed(&mut whole, &message, may_type);
            let (mut out, mut rest, mut sizes) = (Vec::new(), &message[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, later) = rest.split_at((*sizes.next().expect("endless")).min(rest.len()));
                cut.take(piece, may_type, &mut out).expect("a viewer's message");
                rest = later;
            }
            prop_assert_eq!(out, expected);
        }
    }

    #[test]
    fn garbage_never_reaches_the_display_as_input(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (mut filter, mut out) = (begun(), Vec::new());
        // Whatever passes while nobody may type is a row of messages that only ask.
        let _ = filter.take(&bytes, false, &mut out);
        let (mut again, mut twice) = (begun(), Vec::new());
        prop_assert!(again.take(&out, false, &mut twice).is_ok());
        prop_assert_eq!(twice, out);
        prop_assert!(filter.head.len() <= 4 + 4 * MAX_ENCODINGS);
    }
}
