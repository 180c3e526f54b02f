//! What the server may send: exactly what the test expects, in its order.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{Panel, Peer, state};

/// In which an extra frame would have come.
const MOMENT: Duration = Duration::from_millis(300);

/// In an expected frame: any text that is not empty, where the server makes it up.
pub fn any() -> Value {
    Value::String(ANY.to_owned())
}

const ANY: &str = "\u{0}any";

/// Whether a frame is the expected one: equal in every key, [`any`] aside.
pub fn matches(expected: &Value, got: &Value) -> bool {
    match (expected, got) {
        (Value::String(text), got) if text == ANY => got.as_str().is_some_and(|got| !got.is_empty()),
        (Value::Object(expected), Value::Object(got)) => {
            expected.len() == got.len()
                && expected.iter().all(|(key, value)| got.get(key).is_some_and(|got| matches(value, got)))
        }
        (Value::Array(expected), Value::Array(got)) => {
            expected.len() == got.len() && expected.iter().zip(got).all(|(expected, got)| matches(expected, got))
        }
        (expected, got) => expected == got,
    }
}

impl Peer {
    /// Takes the server's next frame, which must be this one.
    pub async fn expect(&self, expected: &Value) -> Result<Value> {
        let got = self.next(&format!("the server sends {expected}")).await?;
        ensure!(matches(expected, &got), "expected {expected}\ngot      {got}\n{}", self.told());
        Ok(got)
    }

    /// Takes the server's next frames, which must be these in any order.
    pub async fn expect_all(&self, expected: &[Value]) -> Result<()> {
        let mut left = expected.to_vec();
        while !left.is_empty() {
            let got = self.next(&format!("the server sends one of {left:?}")).await?;
            let place = left.iter().position(|expected| matches(expected, &got));
            ensure!(place.is_some(), "expected one of {left:?}\ngot {got}\n{}", self.told());
            left.remove(place.unwrap_or_default());
        }
        Ok(())
    }

    /// Takes the server's next frame, for the test to judge.
    pub async fn expect_any(&self) -> Result<Value> {
        self.next("the server sends anything").await
    }

    async fn next(&self, what: &str) -> Result<Value> {
        let next = |state: &mut state::State| {
            let frame = state.frames.get(state.taken)?.json.clone();
            state.taken += 1;
            Some(frame)
        };
        self.zed.when(what, next).await
    }

    /// Nothing came but what was expected so far.
    pub fn nothing_more(&self) -> Result<()> {
        self.zed.look(|state| {
            ensure!(state.faults.is_empty(), "the real Zed would drop: {:#?}\n{}", state.faults, state.story());
            let extra: Vec<_> = state.frames.iter().skip(state.taken).map(|frame| &frame.json).collect();
            ensure!(extra.is_empty(), "the server sent more: {extra:#?}\n{}", state.story());
            Ok(())
        })
    }

    /// Every frame so far, taken or not.
    pub fn frames(&self) -> Vec<Value> {
        self.zed.look(|state| state.frames.iter().map(|frame| frame.json.clone()).collect())
    }

    /// Faults of the server so far: frames that the real Zed would drop.
    pub fn faults(&self) -> Vec<String> {
        self.zed.look(|state| state.faults.clone())
    }

    /// Takes whatever came so far without looking at it.
    pub fn take_all(&self) {
        self.zed.change(|state| state.taken = state.frames.len());
    }

    /// The end of a scenario: all that was said was said, nothing runs, and nothing came that was not expected.
    pub async fn finish(self) -> Result<()> {
        ensure!(!self.is_busy(), "prompts are left in the editor\n{}", self.told());
        let early = self.zed.look(|state| state.early.len());
        ensure!(
            early == 0 || self.options().panel != Panel::Waits,
            "{early} commands wait for the panel\n{}",
            self.told()
        );
        self.hears_nothing().await
    }

    /// Waits a moment in which the server must say nothing more.
    pub async fn hears_nothing(&self) -> Result<()> {
        tokio::time::sleep(MOMENT).await; // what must not come has no event to wait for
        self.nothing_more()
    }

    /// What happened, for a failure's message.
    pub fn told(&self) -> String {
        self.zed.look(state::State::story)
    }
}
