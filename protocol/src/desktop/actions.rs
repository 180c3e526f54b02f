//! What can be done with keyboard and pointer, one after another.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most actions of one call.
pub const MAX_ACTIONS: usize = 1000;
/// Longest text of all actions of one call together, in bytes.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// Longest `wait` or `wait_frame` in milliseconds.
pub const MAX_WAIT_MS: u64 = 10_000;

/// Actions that are done in order, or not at all where one of them is not possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Input {
    /// 1 to 1000 of them.
    pub actions: Vec<Action>,
}

/// One action. Positions are pixels from the left upper corner of the screen. Keys are X keysym names (`Return`,
/// `Page_Up`, `a`) or common names for them (`enter`, `esc`, `ctrl`), joined by `+` where several are held together.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Action {
    /// Types a text in any script. `\n` is Return, `\t` is Tab.
    Text {
        /// What is typed.
        text: String,
    },
    /// Presses and releases a key, with those before it held: `ctrl+shift+t`.
    Key {
        /// Its name.
        key: String,
    },
    /// Presses a key and leaves it down, until `key_up` or until nobody has driven the desktop for a minute.
    KeyDown {
        /// Its name.
        key: String,
    },
    /// Releases it.
    KeyUp {
        /// Its name.
        key: String,
    },
    /// Moves the pointer there and clicks.
    Click {
        /// From the left edge.
        x: i64,
        /// From the upper edge.
        y: i64,
        /// Left where absent.
        #[serde(default)]
        button: Button,
        /// Clicks in a row, 1 where absent, at most 3.
        #[serde(default = "once")]
        count: u8,
        /// Keys that are held meanwhile.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        modifiers: Vec<String>,
    },
    /// Moves the pointer.
    Move {
        /// From the left edge.
        x: i64,
        /// From the upper edge.
        y: i64,
    },
    /// Presses a button where the pointer is, and leaves it down like `key_down`.
    MouseDown {
        /// Left where absent.
        #[serde(default)]
        button: Button,
    },
    /// Releases it.
    MouseUp {
        /// Left where absent.
        #[serde(default)]
        button: Button,
    },
    /// Presses a button at the first point, moves through the others and releases it at the last.
    Drag {
        /// Two points or more, each `[x, y]`.
        path: Vec<[i64; 2]>,
        /// Left where absent.
        #[serde(default)]
        button: Button,
    },
    /// Turns the wheel with the pointer there.
    Scroll {
        /// From the left edge.
        x: i64,
        /// From the upper edge.
        y: i64,
        /// Steps to the right, to the left where negative; at most 100.
        #[serde(default)]
        dx: i64,
        /// Steps down, up where negative; at most 100.
        #[serde(default)]
        dy: i64,
    },
    /// Does nothing for so long.
    Wait {
        /// At most 10,000.
        ms: u64,
    },
    /// Waits until something was drawn since the action before this one began; goes on when nothing was in time.
    WaitFrame {
        /// 1,000 where absent, at most 10,000.
        #[serde(default = "one_second")]
        timeout_ms: u64,
    },
}

fn once() -> u8 {
    1
}

fn one_second() -> u64 {
    1000
}

impl fmt::Debug for Action {
    /// Without what is typed: people type passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text { .. } => "text",
            Self::Key { .. } => "key",
            Self::KeyDown { .. } => "key_down",
            Self::KeyUp { .. } => "key_up",
            Self::Click { .. } => "click",
            Self::Move { .. } => "move",
            Self::MouseDown { .. } => "mouse_down",
            Self::MouseUp { .. } => "mouse_up",
            Self::Drag { .. } => "drag",
            Self::Scroll { .. } => "scroll",
            Self::Wait { .. } => "wait",
            Self::WaitFrame { .. } => "wait_frame",
        })
    }
}

/// A button of the pointer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Button {
    /// The main one.
    #[default]
    Left,
    /// The wheel, pressed.
    Middle,
    /// Menus.
    Right,
    /// Back in a browser.
    Back,
    /// Forward in a browser.
    Forward,
}

impl Input {
    /// Where the pointer is when all is done; None where no action moves it.
    pub fn pointer(&self) -> Option<[i64; 2]> {
        self.actions.iter().rev().find_map(|action| match action {
            Action::Click { x, y, .. } | Action::Move { x, y } | Action::Scroll { x, y, .. } => Some([*x, *y]),
            Action::Drag { path, .. } => path.last().copied(),
            Action::Text { .. }
            | Action::Key { .. }
            | Action::KeyDown { .. }
            | Action::KeyUp { .. }
            | Action::MouseDown { .. }
            | Action::MouseUp { .. }
            | Action::Wait { .. }
            | Action::WaitFrame { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_as_they_are_written() {
        let text = r#"{"actions": [{"type": "click", "x": 1, "y": 2}, {"type": "text", "text": "geheim"}]}"#;
        let input: Input = serde_json::from_str(text).expect("actions");
        let click = Action::Click { x: 1, y: 2, button: Button::Left, count: 1, modifiers: Vec::new() };
        assert_eq!(input.actions[0], click);
        assert!(!format!("{input:?}").contains("geheim"));
        for bad in [r#"{"type": "clack"}"#, r#"{"type": "click", "x": 1}"#, r#"{"type": "key", "key": "a", "z": 1}"#] {
            assert!(serde_json::from_str::<Action>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_action_that_moves_the_pointer_says_where_it_is() {
        let pointer = |actions: &str| {
            serde_json::from_str::<Input>(&format!(r#"{{"actions": [{actions}]}}"#)).expect("actions").pointer()
        };
        let click = r#"{"type": "click", "x": 1, "y": 2}"#;
        let drag = r#"{"type": "drag", "path": [[3, 4], [5, 6]]}"#;
        let text = r#"{"type": "text", "text": "a"}"#;
        assert_eq!(pointer(&format!("{click}, {drag}, {text}")), Some([5, 6]));
        assert_eq!(pointer(&format!("{drag}, {click}")), Some([1, 2]));
        assert_eq!(pointer(text), None);
    }
}
