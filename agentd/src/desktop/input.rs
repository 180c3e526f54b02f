//! Keys and pointer through XTEST: every action is checked before the first is done.

mod kept;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use helix_protocol::control::Viewer;
use helix_protocol::desktop::{Input, InputDone};
use tokio::time::{Instant, sleep};
use x11rb::protocol::xproto::{
    Atom, BUTTON_PRESS_EVENT, BUTTON_RELEASE_EVENT, GetInputFocusRequest, KEY_PRESS_EVENT, KEY_RELEASE_EVENT,
    MOTION_NOTIFY_EVENT, Window,
};
use x11rb::protocol::xtest::FakeInputRequest;

use self::kept::Kept;
use self::plan::Step;
use super::connection::Connection;
use super::keyboard::Keyboard;
use super::keys::Sym;
use super::{Desktop, DesktopError, Result, require_control};

/// Longest time of one call. Less than a call may take on the runner, so that it says how far it came.
pub(super) const BATCH_TIMEOUT: Duration = Duration::from_mins(1);
/// Keys typed before the display is waited for: as many can be under way when the caller leaves.
const KEYS_AT_ONCE: usize = 64;

/// Something that is pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pressed {
    Key(u8),
    Button(u8),
}

/// What presses and moves.
pub(super) struct Hands {
    x: Arc<Connection>,
    root: Window,
    keyboard: Keyboard,
    /// Left down on purpose, until a later call, another lease, or the end of the desktop.
    kept: Kept,
}

impl Hands {
    pub async fn new(x: &Arc<Connection>, root: Window, note: Atom) -> Result<Self> {
        let (keyboard, kept) = (Keyboard::new(x).await?, Kept::new(x.clone(), root, note));
        Ok(Self { x: x.clone(), root, keyboard, kept })
    }

    /// Releases what an agentd that was killed has left down.
    pub async fn recover(&self) -> Result<()> {
        self.kept.recover().await
    }

    /// Lets go of what was left down under another lease than this one.
    pub fn let_go(&mut self, epoch: u64) {
        self.kept.release_all_but(Some(epoch));
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        // While the keys still mean what was pressed.
        self.kept.release_all_but(None);
        self.keyboard.restore(&self.x);
    }
}

/// What one action has pressed and not yet released. Dropped, it releases: also when its call is cut off.
struct Grip<'a> {
    x: &'a Connection,
    root: Window,
    pressed: Vec<Pressed>,
}

impl Grip<'_> {
    async fn press(&mut self, what: Pressed) -> Result<()> {
        // Before it is sent: a release of what is not pressed does no harm.
        self.pressed.push(what);
        self.x.tell(event(self.root, what, true)).await
    }

    /// Releases everything, the last first.
    async fn release(&mut self) -> Result<()> {
        while let Some(what) = self.pressed.last().copied() {
            self.x.tell(event(self.root, what, false)).await?;
            self.pressed.pop();
        }
        Ok(())
    }

    async fn tap(&mut self, what: Pressed) -> Result<()> {
        self.press(what).await?;
        self.x.tell(event(self.root, what, false)).await?;
        self.pressed.pop();
        Ok(())
    }
}

impl Drop for Grip<'_> {
    fn drop(&mut self) {
        for what in self.pressed.drain(..).rev() {
            self.x.tell_last(event(self.root, what, false));
        }
    }
}

fn event(root: Window, what: Pressed, down: bool) -> FakeInputRequest {
    let (kind, detail) = match what {
        Pressed::Key(code) => (if down { KEY_PRESS_EVENT } else { KEY_RELEASE_EVENT }, code),
        Pressed::Button(button) => (if down { BUTTON_PRESS_EVENT } else { BUTTON_RELEASE_EVENT }, button),
    };
    FakeInputRequest { type_: kind, detail, time: x11rb::CURRENT_TIME, root, root_x: 0, root_y: 0, deviceid: 0 }
}

impl Desktop {
    /// Does the actions, once those of earlier calls are done.
    pub(super) async fn input(&self, by: &Viewer, input: &Input) -> Result<InputDone> {
        let steps = plan::plan(input, self.screen()).map_err(DesktopError::Invalid)?;
        let mut hands = self.hands.lock().await;
        hands.keyboard.refresh(&self.x).await?;
        let deadline = Instant::now() + BATCH_TIMEOUT;
        let mut notices = self.notices().await?;
        let mut done = 0;
        for (number, step) in steps.iter().enumerate() {
            // With the hands taken: whatever is left down under a lease that ends meanwhile is let go afterwards.
            let epoch = {
                let control = self.control.borrow();
                require_control(&control, by)?;
                control.epoch
            };
            // What is drawn from here on may be the effect of this step.
            if matches!(steps.get(number + 1), Some(Step::WaitFrame(_))) {
                notices = self.notices().await?;
            }
            let took = async {
                match step {
                    Step::WaitFrame(patience) => {
                        self.round_trip().await?;
                        self.drawn(&mut notices, Instant::now() + *patience).await.map(|_| ())
                    }
                    step => hands.act(step, epoch).await,
                }
            };
            let took = tokio::time::timeout_at(deadline, took).await;
            took.map_err(|_| {
                let (all, seconds) = (steps.len(), BATCH_TIMEOUT.as_secs());
                let detail = "the call took more than";
                DesktopError::Late(format!("actions[{number}]: {detail} {seconds} s; {done} of {all} actions are done"))
            })??;
            done += 1;
        }
        self.round_trip().await?;
        Ok(InputDone { done })
    }

    /// Everything sent before has reached the display when this returns.
    async fn round_trip(&self) -> Result<()> {
        self.x.ask(GetInputFocusRequest {}).await.map(|_| ())
    }
}

impl Hands {
    async fn act(&mut self, step: &Step, epoch: u64) -> Result<()> {
        let Self { x, root, keyboard, kept } = self;
        let mut grip = Grip { x, root: *root, pressed: Vec::new() };
        match step {
            Step::Type(syms) => {
                for (number, sym) in syms.iter().enumerate() {
                    let key = keyboard.key(x, *sym).await?;
                    if let Some(shift) = keyboard.shift().filter(|_| key.shifted) {
                        grip.press(Pressed::Key(shift)).await?;
                    }
                    grip.tap(Pressed::Key(key.code)).await?;
                    grip.release().await?;
                    if number % KEYS_AT_ONCE == KEYS_AT_ONCE - 1 {
                        x.ask(GetInputFocusRequest {}).await?;
                    }
                }
            }
            Step::Chord(syms) => {
                grip.hold(keyboard, syms).await?;
                grip.release().await?;
            }
            Step::Keep(sym) => {
                let key = Pressed::Key(keyboard.key(x, *sym).await?.code);
                kept.press(key, epoch).await?;
            }
            Step::LetGo(sym) => {
                let key = Pressed::Key(keyboard.key(x, *sym).await?.code);
                kept.release(key).await?;
            }
            Step::Move(at) => x.tell(motion(*root, *at)).await?,
            Step::Click { at, button, count, held } => {
                grip.hold(keyboard, held).await?;
                x.tell(motion(*root, *at)).await?;
                for _ in 0..*count {
                    grip.tap(Pressed::Button(*button)).await?;
                }
                grip.release().await?;
            }
            Step::KeepButton(button) => kept.press(Pressed::Button(*button), epoch).await?,
            Step::LetGoButton(button) => kept.release(Pressed::Button(*button)).await?,
            Step::Drag { path, button } => {
                let (first, rest) = path.split_first().ok_or_else(|| DesktopError::Invalid("path".to_owned()))?;
                x.tell(motion(*root, *first)).await?;
                grip.press(Pressed::Button(*button)).await?;
                for at in rest {
                    x.tell(motion(*root, *at)).await?;
                    // Programs that join the moves that wait for them still see each place.
                    x.ask(GetInputFocusRequest {}).await?;
                }
                grip.release().await?;
            }
            Step::Scroll { at, turns } => {
                x.tell(motion(*root, *at)).await?;
                for (button, count) in turns {
                    for _ in 0..*count {
                        grip.tap(Pressed::Button(*button)).await?;
                    }
                }
            }
            Step::Wait(pause) => sleep(*pause).await,
            // The desktop's own, which hears what is drawn.
            Step::WaitFrame(_) => {}
        }
        Ok(())
    }
}

impl Grip<'_> {
    /// Presses these keys, one after the other, and Shift where the last one needs it.
    async fn hold(&mut self, keyboard: &mut Keyboard, syms: &[Sym]) -> Result<()> {
        for sym in syms {
            let key = keyboard.key(self.x, *sym).await?;
            let shift = keyboard.shift().map(Pressed::Key).filter(|shift| key.shifted && !self.pressed.contains(shift));
            if let Some(shift) = shift {
                self.press(shift).await?;
            }
            self.press(Pressed::Key(key.code)).await?;
        }
        Ok(())
    }
}

fn motion(root: Window, (x, y): (i16, i16)) -> FakeInputRequest {
    // Detail 0: to that place, not by so much.
    FakeInputRequest {
        type_: MOTION_NOTIFY_EVENT,
        detail: 0,
        time: x11rb::CURRENT_TIME,
        root,
        root_x: x,
        root_y: y,
        deviceid: 0,
    }
}
