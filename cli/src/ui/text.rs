//! Text for people: what reaches a terminal, tables, time spans.

use std::time::Duration;

/// Takes from a text what a terminal must not get, however the text is cut into pieces: colours go, other control
/// characters but line ends and tabs become a mark. A carriage return is a line end: what overwrites its line (a
/// progress bar) is lines here.
#[derive(Debug, Default)]
pub struct Cleaner {
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    /// After ESC.
    Escape,
    /// Inside a control sequence: parameters, then one letter.
    Sequence,
    /// After a carriage return.
    Return,
}

impl Cleaner {
    /// The next piece, cleaned.
    pub fn clean(&mut self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        for c in text.chars() {
            match std::mem::take(&mut self.state) {
                State::Sequence => {
                    if !matches!(c, '@'..='~') {
                        self.state = State::Sequence;
                    }
                    continue;
                }
                State::Escape if c == '[' => {
                    self.state = State::Sequence;
                    continue;
                }
                State::Escape => shown.push('\u{fffd}'),
                State::Return if c != '\n' => shown.push('\n'),
                State::Return | State::Plain => {}
            }
            match c {
                '\u{1b}' => self.state = State::Escape,
                '\r' => self.state = State::Return,
                '\n' | '\t' => shown.push(c),
                c if c.is_control() => shown.push('\u{fffd}'),
                c => shown.push(c),
            }
        }
        shown
    }
}

/// A whole text, cleaned.
pub fn printable(text: &str) -> String {
    Cleaner::default().clean(text)
}

/// The text on one line of at most so many columns.
pub fn one_line(text: &str, columns: usize) -> String {
    // Wide characters are not looked up: whatever is not ASCII may be one.
    let width = |c: char| if c.is_ascii() { 1 } else { 2 };
    let clean = printable(text);
    let mut line = String::new();
    let mut used = 0;
    for c in clean.trim().chars().map(|c| if matches!(c, '\n' | '\t') { ' ' } else { c }) {
        if used + width(c) > columns.saturating_sub(2) {
            line.push('…');
            break;
        }
        used += width(c);
        line.push(c);
    }
    line
}

/// Columns aligned with spaces, no blanks at line ends.
pub fn plain_table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|cell| cell.to_uppercase()).collect();
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A time span for people: `830 ms`, `4.2 s`, `3 min`, `5 h`, `2 d`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..=119 => format!("{:.1} s", duration.as_secs_f64()),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long ago `then` was.
pub fn age(then: jiff::Timestamp) -> String {
    let past = jiff::Timestamp::now().duration_since(then);
    span(Duration::try_from(past).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_tables_align_with_spaces() {
        let rows = vec![
            vec!["session_1".to_owned(), "Ready".to_owned(), String::new()],
            vec!["a".to_owned(), "Pending".to_owned(), "waits".to_owned()],
        ];
        insta::assert_snapshot!(plain_table(&["id", "phase", "cause"], &rows), @r"
        ID         PHASE    CAUSE
        session_1  Ready
        a          Pending  waits
        ");
    }

    #[test]
    fn escape_sequences_do_not_reach_a_terminal() {
        assert_eq!(printable("a\x1b[1;31mred\x1b[m\x07\tb\nc\x1b]0;title"), "ared\u{fffd}\tb\nc\u{fffd}]0;title");
        assert_eq!(printable("cut off\x1b[31"), "cut off");
        assert_eq!(printable("a\r\nb\rc"), "a\nb\nc");
    }

    #[test]
    fn it_does_not_matter_how_a_text_is_cut() {
        let text = "ä\x1b[1;31mred\x1b[m\x1bx\r\n10 %\r20 %\r\n\x07end";
        for size in 1..text.len() {
            let mut cleaner = Cleaner::default();
            let chars: Vec<_> = text.chars().collect();
            let clean: String = chars.chunks(size).map(|piece| cleaner.clean(&String::from_iter(piece))).collect();
            assert_eq!(clean, "ä\u{fffd}x\n10 %\n20 %\n\u{fffd}end".replace("ä", "äred"), "{size}");
        }
    }

    #[test]
    fn one_line_fits() {
        assert_eq!(one_line(" a\nb\tc ", 80), "a b c");
        assert_eq!(one_line("abcdefgh", 6), "abcd…");
        assert_eq!(one_line("äöü", 6), "äö…");
    }

    #[test]
    fn spans_read_well() {
        let words: Vec<_> =
            [12, 1_500, 65_000, 180_000, 7_200_000, 172_800_000].map(|ms| span(Duration::from_millis(ms))).into();
        assert_eq!(words, ["12 ms", "1.5 s", "65.0 s", "3 min", "2 h", "2 d"]);
    }
}
