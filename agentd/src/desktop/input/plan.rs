//! Actions into steps, checked: pure, so that nothing is done where anything is wrong. A fault names its action.

use std::time::Duration;

use helix_protocol::desktop::{Action, Button, Input, MAX_ACTIONS, MAX_TEXT_BYTES, MAX_WAIT_MS};

use super::super::keys::{self, Sym};

/// Most clicks of one action.
const MAX_CLICKS: u8 = 3;
/// Most steps of the wheel.
const MAX_TURNS: i64 = 100;
/// Most points of a drag.
const MAX_POINTS: usize = 1000;
/// Most keys held together.
const MAX_HELD: usize = 8;

/// A place on the screen.
type At = (i16, i16);

/// What is done at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Type(Vec<Sym>),
    Chord(Vec<Sym>),
    Keep(Sym),
    LetGo(Sym),
    Click { at: At, button: u8, count: u8, held: Vec<Sym> },
    Move(At),
    KeepButton(u8),
    LetGoButton(u8),
    Drag { path: Vec<At>, button: u8 },
    Scroll { at: At, turns: [(u8, u32); 2] },
    Wait(Duration),
    WaitFrame(Duration),
}

/// The steps on a screen of that size.
pub(super) fn plan(input: &Input, screen: (u16, u16)) -> Result<Vec<Step>, String> {
    let actions = &input.actions;
    if actions.is_empty() || actions.len() > MAX_ACTIONS {
        return Err(format!("actions: {} of them; a call has 1 to {MAX_ACTIONS}", actions.len()));
    }
    let bytes: usize =
        actions.iter().map(|action| if let Action::Text { text } = action { text.len() } else { 0 }).sum();
    if bytes > MAX_TEXT_BYTES {
        return Err(format!(
            "actions: {bytes} bytes of text; a call types at most {MAX_TEXT_BYTES}, the clipboard takes more"
        ));
    }
    let planned = actions.iter().enumerate();
    planned.map(|(number, action)| step(action, screen).map_err(|fault| format!("actions[{number}].{fault}"))).collect()
}

fn step(action: &Action, screen: (u16, u16)) -> Result<Step, String> {
    Ok(match action {
        Action::Text { text } => Step::Type(typed(text)?),
        Action::Key { key } => Step::Chord(chord(key)?),
        Action::KeyDown { key } => Step::Keep(single(key)?),
        Action::KeyUp { key } => Step::LetGo(single(key)?),
        Action::Click { x, y, button, count, modifiers } => {
            if !(1..=MAX_CLICKS).contains(count) {
                return Err(format!("count: {count} clicks; write 1 to {MAX_CLICKS}"));
            }
            if modifiers.len() > MAX_HELD {
                return Err(format!("modifiers: at most {MAX_HELD}"));
            }
            let held = modifiers.iter().map(|key| keys::named(key).map_err(|fault| format!("modifiers: {fault}")));
            Step::Click {
                at: place(*x, *y, screen)?,
                button: number(*button),
                count: *count,
                held: held.collect::<Result<_, _>>()?,
            }
        }
        Action::Move { x, y } => Step::Move(place(*x, *y, screen)?),
        Action::MouseDown { button } => Step::KeepButton(number(*button)),
        Action::MouseUp { button } => Step::LetGoButton(number(*button)),
        Action::Drag { path, button } => {
            if !(2..=MAX_POINTS).contains(&path.len()) {
                return Err(format!("path: {} points; write 2 to {MAX_POINTS}", path.len()));
            }
            let point = |(index, [x, y]): (usize, &[i64; 2])| {
                place(*x, *y, screen).map_err(|fault| format!("path[{index}].{fault}"))
            };
            let path = path.iter().enumerate().map(point).collect::<Result<_, _>>()?;
            Step::Drag { path, button: number(*button) }
        }
        Action::Scroll { x, y, dx, dy } => {
            let turn = |name: &str, steps: i64, back: u8, forth: u8| {
                let count = u32::try_from(steps.unsigned_abs()).ok().filter(|_| steps.abs() <= MAX_TURNS);
                let count = count.ok_or_else(|| format!("{name}: {steps} steps; at most {MAX_TURNS} either way"))?;
                Ok::<_, String>((if steps < 0 { back } else { forth }, count))
            };
            Step::Scroll { at: place(*x, *y, screen)?, turns: [turn("dy", *dy, 4, 5)?, turn("dx", *dx, 6, 7)?] }
        }
        Action::Wait { ms } => Step::Wait(pause("ms", *ms)?),
        Action::WaitFrame { timeout_ms } => Step::WaitFrame(pause("timeout_ms", *timeout_ms)?),
    })
}

fn typed(text: &str) -> Result<Vec<Sym>, String> {
    // A line end of two characters is one key.
    let text = text.replace("\r\n", "\n");
    let key = |letter: char| {
        keys::of_char(letter).ok_or_else(|| format!("text: it holds {letter:?}, which cannot be typed; use `key`"))
    };
    text.chars().map(key).collect()
}

fn chord(text: &str) -> Result<Vec<Sym>, String> {
    let chord = keys::chord(text).map_err(|fault| format!("key: {fault}"))?;
    if chord.len() > MAX_HELD {
        return Err(format!("key: at most {MAX_HELD} keys together"));
    }
    Ok(chord)
}

fn single(text: &str) -> Result<Sym, String> {
    keys::named(text).map_err(|fault| format!("key: {fault}"))
}

fn place(x: i64, y: i64, (width, height): (u16, u16)) -> Result<At, String> {
    let inside = |name: &str, at: i64, side: u16, what: &str| {
        let within = i16::try_from(at).ok().filter(|_| (0..i64::from(side)).contains(&at));
        within.ok_or_else(|| format!("{name}: {at} is outside the screen, which is {side} {what}"))
    };
    Ok((inside("x", x, width, "wide")?, inside("y", y, height, "high")?))
}

fn pause(name: &str, ms: u64) -> Result<Duration, String> {
    if ms > MAX_WAIT_MS {
        return Err(format!("{name}: {ms} ms; at most {MAX_WAIT_MS}"));
    }
    Ok(Duration::from_millis(ms))
}

/// X's number of the button.
fn number(button: Button) -> u8 {
    match button {
        Button::Left => 1,
        Button::Middle => 2,
        Button::Right => 3,
        Button::Back => 8,
        Button::Forward => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(json: &str) -> Result<Vec<Step>, String> {
        plan(&serde_json::from_str(json).expect("actions"), (800, 600))
    }

    #[test]
    fn actions_become_steps() {
        let steps = planned(
            r#"{"actions": [{"type": "text", "text": "a\r\nB"}, {"type": "scroll", "x": 1, "y": 2, "dy": -3},
                {"type": "drag", "path": [[0, 0], [799, 599]], "button": "middle"}, {"type": "wait_frame"}]}"#,
        );
        let expected = [
            Step::Type(vec![0x61, 0xff0d, 0x42]),
            Step::Scroll { at: (1, 2), turns: [(4, 3), (7, 0)] },
            Step::Drag { path: vec![(0, 0), (799, 599)], button: 2 },
            Step::WaitFrame(Duration::from_secs(1)),
        ];
        assert_eq!(steps.expect("possible"), expected);
    }

    #[test]
    fn a_fault_names_its_action_and_field() {
        let fault =
            |action: &str| planned(&format!(r#"{{"actions": [{{"type": "move", "x": 0, "y": 0}}, {action}]}}"#));
        let faults: Vec<_> = [
            r#"{"type": "click", "x": 800, "y": 1}"#,
            r#"{"type": "click", "x": 1, "y": -1}"#,
            r#"{"type": "click", "x": 1, "y": 1, "count": 4}"#,
            r#"{"type": "click", "x": 1, "y": 1, "modifiers": ["ctlr"]}"#,
            r#"{"type": "drag", "path": [[0, 0], [0, 600]]}"#,
            r#"{"type": "drag", "path": [[0, 0]]}"#,
            r#"{"type": "scroll", "x": 1, "y": 1, "dy": -9223372036854775808}"#,
            r#"{"type": "wait", "ms": 10001}"#,
            r#"{"type": "key", "key": "ctrl+nonsuchkeyatall"}"#,
            r#"{"type": "text", "text": "a\u0000b"}"#,
        ]
        .into_iter()
        .map(|action| fault(action).expect_err(action))
        .collect();
        insta::assert_snapshot!(faults.join("\n"), @r#"
        actions[1].x: 800 is outside the screen, which is 800 wide
        actions[1].y: -1 is outside the screen, which is 600 high
        actions[1].count: 4 clicks; write 1 to 3
        actions[1].modifiers: there is no key "ctlr"; near it are cr, ctrl
        actions[1].path[1].y: 600 is outside the screen, which is 600 high
        actions[1].path: 1 points; write 2 to 1000
        actions[1].dy: -9223372036854775808 steps; at most 100 either way
        actions[1].ms: 10001 ms; at most 10000
        actions[1].key: there is no key "nonsuchkeyatall"; keys have X's names, for example Return, Page_Up, F5, a
        actions[1].text: it holds '\0', which cannot be typed; use `key`
        "#);
    }

    #[test]
    fn calls_have_bounds() {
        assert!(planned(r#"{"actions": []}"#).is_err());
        let waits = vec![r#"{"type": "wait", "ms": 0}"#; MAX_ACTIONS + 1].join(",");
        assert!(planned(&format!(r#"{{"actions": [{waits}]}}"#)).is_err());
        let text = "x".repeat(MAX_TEXT_BYTES / 2 + 1);
        let text = format!(r#"{{"type": "text", "text": "{text}"}}"#);
        assert!(planned(&format!(r#"{{"actions": [{text}]}}"#)).is_ok());
        assert!(planned(&format!(r#"{{"actions": [{text}, {text}]}}"#)).is_err());
    }
}
