//! Actions as words of a command line: `text=hello`, `click=10,20`.

use std::str::FromStr;

use helix_protocol::desktop::{Action, Button};

/// One action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(pub Action);

const KNOWN: &str =
    "text=…, key=…, click=X,Y, click2=X,Y, right=X,Y, move=X,Y, drag=X,Y,X,Y…, scroll=X,Y,STEPS, wait=MS, frame";

impl FromStr for Word {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let click = |button, count| {
            let [x, y] = numbers(name, value)?;
            Ok::<_, String>(Action::Click { x, y, button, count, modifiers: Vec::new() })
        };
        Ok(Self(match name {
            "text" => Action::Text { text: value.to_owned() },
            "key" => Action::Key { key: value.to_owned() },
            "click" => click(Button::Left, 1)?,
            "click2" => click(Button::Left, 2)?,
            "right" => click(Button::Right, 1)?,
            "move" => {
                let [x, y] = numbers(name, value)?;
                Action::Move { x, y }
            }
            "drag" => {
                let all = list(name, value)?;
                let (points, rest) = all.as_chunks::<2>();
                if !rest.is_empty() || points.len() < 2 {
                    return Err("drag: write two places or more, for example drag=10,20,30,40".to_owned());
                }
                Action::Drag { path: points.to_vec(), button: Button::Left }
            }
            "scroll" => {
                let [x, y, dy] = numbers(name, value)?;
                Action::Scroll { x, y, dx: 0, dy }
            }
            "wait" => {
                let [ms] = numbers(name, value)?;
                Action::Wait { ms: u64::try_from(ms).map_err(|_| "wait: milliseconds are not negative".to_owned())? }
            }
            "frame" => Action::WaitFrame { timeout_ms: 1000 },
            _ => return Err(format!("no action {name:?}; there are {KNOWN}")),
        }))
    }
}

fn list(name: &str, value: &str) -> Result<Vec<i64>, String> {
    let number = |part: &str| part.trim().parse().map_err(|_| format!("{name}: {part:?} is no number"));
    value.split(',').map(number).collect()
}

fn numbers<const N: usize>(name: &str, value: &str) -> Result<[i64; N], String> {
    let all = list(name, value)?;
    let count = all.len();
    all.try_into().map_err(|_| format!("{name}: write {N} numbers with commas between, not {count}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_actions() {
        let action =
            |word: &str| word.parse::<Word>().map(|Word(action)| serde_json::to_string(&action).expect("JSON"));
        assert_eq!(action("text=a=b").expect("text"), r#"{"type":"text","text":"a=b"}"#);
        assert_eq!(
            action("click2=3,-4").expect("a click"),
            r#"{"type":"click","x":3,"y":-4,"button":"left","count":2}"#
        );
        assert_eq!(action("drag=1,2,3,4").expect("a drag"), r#"{"type":"drag","path":[[1,2],[3,4]],"button":"left"}"#);
        assert_eq!(action("frame").expect("a wait"), r#"{"type":"wait_frame","timeout_ms":1000}"#);
        let faults: Vec<_> = ["clack=1,2", "click=1", "click=a,b", "drag=1,2", "wait=-1"]
            .into_iter()
            .map(|word| action(word).expect_err(word))
            .collect();
        insta::assert_snapshot!(faults.join("\n"), @r#"
        no action "clack"; there are text=…, key=…, click=X,Y, click2=X,Y, right=X,Y, move=X,Y, drag=X,Y,X,Y…, scroll=X,Y,STEPS, wait=MS, frame
        click: write 2 numbers with commas between, not 1
        click: "a" is no number
        drag: write two places or more, for example drag=10,20,30,40
        wait: milliseconds are not negative
        "#);
    }
}
