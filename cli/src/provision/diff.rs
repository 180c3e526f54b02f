//! Differences of two short texts, as `diff -u` shows them. Pure.

use std::fmt::Write as _;

/// Longer files are not compared.
pub const LONGEST: usize = 64 * 1024;
/// Lines around a difference.
const AROUND: usize = 2;

/// None where they are the same.
pub fn unified(name: &str, old: &str, new: &str) -> Option<String> {
    if old == new {
        return None;
    }
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let lines = script(&old, &new);
    let near = |at: usize| {
        let from = at.saturating_sub(AROUND);
        lines[from..lines.len().min(at + AROUND + 1)].iter().any(|(sign, _)| *sign != ' ')
    };
    let mut text = format!("--- {name}\n+++ {name}\n");
    let mut left_out = false;
    for (at, (sign, line)) in lines.iter().enumerate() {
        if near(at) {
            if left_out {
                text.push_str("@@\n");
            }
            let _ = writeln!(text, "{sign}{line}");
        }
        left_out = !near(at);
    }
    Some(text)
}

/// Each line with ` `, `-` or `+`, by the longest common subsequence.
fn script<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    let width = new.len() + 1;
    let mut common = vec![0u32; (old.len() + 1) * width];
    for row in (0..old.len()).rev() {
        for column in (0..new.len()).rev() {
            common[row * width + column] = if old[row] == new[column] {
                common[(row + 1) * width + column + 1] + 1
            } else {
                common[(row + 1) * width + column].max(common[row * width + column + 1])
            };
        }
    }
    let (mut row, mut column, mut lines) = (0, 0, Vec::new());
    while row < old.len() || column < new.len() {
        if row < old.len() && column < new.len() && old[row] == new[column] {
            lines.push((' ', old[row]));
            (row, column) = (row + 1, column + 1);
        } else if column == new.len()
            || row < old.len() && common[(row + 1) * width + column] >= common[row * width + column + 1]
        {
            lines.push(('-', old[row]));
            row += 1;
        } else {
            lines.push(('+', new[column]));
            column += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_shown_with_what_is_around() {
        let (old, new) = ("a\nb\nc\nd\ne\nf\ng\nh\n", "a\nb\nc\nd\nE\nf\ng\nh\ni\n");
        let shown = "--- x\n+++ x\n@@\n c\n d\n-e\n+E\n f\n g\n h\n+i\n";
        assert_eq!(unified("x", old, new).expect("different"), shown);
        assert_eq!(unified("x", old, old), None);
        assert_eq!(unified("x", "", "new\n").expect("different"), "--- x\n+++ x\n+new\n");
    }
}
