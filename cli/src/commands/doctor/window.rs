//! The look that counts: a window of Zed's own toolkit on a session's display stack, and whether it is seen.
//!
//! With the Mesa of Debian 12 such a window opens, stays black, and nothing reports an error. The probe is a program of
//! its own (`packaging/gpui-probe`), started with the environment of kind `zed`.

use std::ffi::OsString;
use std::time::Duration;

use helix_mesa::{Driver, FIX};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::pixels::{self, Sight, Verdict};
use super::stack::{GEOMETRY, GRACE, Stack};
use super::{Display, Looked, PATIENCE, for_zed, interrupted};
use crate::checks::Check;
use crate::error::Result;
use crate::ui::span;
use crate::up::programs;
use crate::up::supervise::Signals;

const NAME: &str = "zed-window";
/// For the look, so that the stack can be ended in time.
const LOOK: Duration = PATIENCE.saturating_sub(GRACE);
const PROBE: &str = "helix-gpui-probe";
/// What a session of kind `zed` gets.
const KIND: &str = include_str!("../../../../packaging/kinds/zed.toml");
/// After the probe has drawn its frames: the display has the first ones by then, and shows them.
const SETTLED: Duration = Duration::from_secs(3);

/// How the look ended.
struct Look {
    verdict: Verdict,
    /// The probe has drawn its frames.
    drawn: bool,
    took: Duration,
}

/// Starts the stack and the probe, looks, ends both. An error says that a signal came.
pub async fn check(display: Display, looked: &Looked, signals: &mut Signals) -> Result<Check> {
    let not_looked = |why: String| for_zed(looked.zed, NAME, format!("not looked at: {why}"));
    let Some(driver) = &looked.vulkan else {
        return Ok(not_looked("there is no Vulkan driver".to_owned()).next(FIX));
    };
    let Ok(probe) = programs::own(PROBE) else {
        let why = format!("{PROBE} is neither beside helixctl nor in PATH");
        return Ok(Check::warn(NAME, format!("not looked at: {why}")).next("make probe"));
    };
    if programs::in_path(display.program()).is_none() {
        let next = match display {
            Display::Tigervnc => "packaging/setup.sh runtime",
            Display::Xvfb => "apt-get install -y xvfb",
        };
        return Ok(Check::fail(NAME, format!("not looked at: {} is not in PATH", display.program())).next(next));
    }
    let mut stack = match Stack::new() {
        Ok(stack) => stack,
        Err(error) => {
            let place = std::env::temp_dir();
            return Ok(Check::fail(NAME, format!("not looked at: no directory in {}: {error}", place.display()))
                .next("set TMPDIR to a directory that may be written to"));
        }
    };
    let ended = tokio::select! {
        ended = timeout(LOOK, look(&mut stack, display, driver, &probe)) => Ok(ended),
        signal = signals.next() => Err(interrupted(signal)),
    };
    stack.end().await;
    Ok(match ended? {
        Ok(Ok(look)) => judge(&look, display, driver),
        Ok(Err(why)) => {
            let next = match why.split_once("error while loading shared libraries: ") {
                Some((_, library)) => format!("install the library: {library}"),
                None => FIX.to_owned(),
            };
            for_zed(looked.zed, NAME, format!("no window of Zed's toolkit: {why}")).next(next)
        }
        Err(_) => {
            let why = format!("the display stack is not up within {}", span(LOOK));
            Check::fail(NAME, why).next("helixctl doctor, on a machine that is less busy")
        }
    })
}

async fn look(stack: &mut Stack, display: Display, driver: &Driver, probe: &std::path::Path) -> Result<Look, String> {
    let deadline = Instant::now() + LOOK.saturating_sub(GRACE);
    let number = stack.start(display).await?;
    let (sender, mut sights) = mpsc::channel(1);
    pixels::watch(number, stack.cookie(), sender);
    match sights.recv().await {
        Some(Sight::Manager) => {}
        Some(Sight::Lost(why)) => return Err(why),
        _ => return Err("the display cannot be looked at".to_owned()),
    }
    let started = Instant::now();
    let patience = OsString::from(PATIENCE.as_secs().to_string());
    let mut said = stack.spawn(PROBE, probe, &[patience], &environment(driver))?;
    let (mut verdict, mut drawn, mut deadline) = (Verdict::Black, false, deadline);
    loop {
        let event = tokio::select! {
            sight = timeout_at(deadline, sights.recv()) => sight.map(Ok),
            line = stack.line(PROBE, &mut said) => Ok(Err(line?)),
        };
        match event {
            // Late: what was seen last counts.
            Err(_) => break,
            Ok(Err(word)) if word == "drawn" => {
                drawn = true;
                deadline = deadline.min(Instant::now() + SETTLED);
            }
            Ok(Err(_) | Ok(Some(Sight::Manager))) => {}
            Ok(Ok(Some(Sight::Picture(picture)))) => {
                verdict = picture.verdict();
                if verdict == Verdict::Right {
                    break;
                }
            }
            Ok(Ok(Some(Sight::Lost(why)))) => return Err(why),
            Ok(Ok(None)) => return Err("the display cannot be looked at any more".to_owned()),
        }
    }
    Ok(Look { verdict, drawn, took: started.elapsed() })
}

/// The environment of kind `zed`, with this driver.
fn environment(driver: &Driver) -> Vec<(String, String)> {
    let icd = driver.icd.to_string_lossy().into_owned();
    let kind: toml::Table = KIND.parse().unwrap_or_default();
    let table = kind.get("environment").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    let (width, height) = GEOMETRY;
    let filled = |value: &toml::Value| {
        let value = value.as_str()?.replace("{{ vulkan_icd }}", &icd);
        let value = value.replace("{{ width }}", &width.to_string()).replace("{{ height }}", &height.to_string());
        // What depends on a session is left out.
        (!value.contains("{{") && !value.contains("{%")).then_some(value)
    };
    let mut env: Vec<_> = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].map(|name| (name.to_owned(), icd.clone())).to_vec();
    env.push(("GPUI_X11_SCALE_FACTOR".to_owned(), "1".to_owned()));
    env.extend(table.iter().filter_map(|(name, value)| Some((name.clone(), filled(value)?))));
    env
}

fn judge(look: &Look, display: Display, driver: &Driver) -> Check {
    let (server, mesa) = (display.program(), driver.words());
    // One of unknown age may be old.
    let is_new = driver.is_new() == Some(true);
    let frames = if look.drawn { "" } else { ", and drew no frame in time" };
    let colours = |colours: [u32; 4]| colours.map(|colour| format!("#{colour:06x}")).join(" ");
    let check = match look.verdict {
        Verdict::Right => {
            return Check::ok(NAME, format!("seen on {server} with {mesa}, {} after its start", span(look.took)));
        }
        Verdict::NoLetters => {
            return Check::fail(
                NAME,
                format!("a window of Zed's toolkit has no letters on {server}: no font is found"),
            )
            .next("packaging/setup.sh runtime, or: apt-get install -y fonts-dejavu-core");
        }
        Verdict::Black => {
            let icd = driver.icd.display();
            let found = format!(
                "Zed would be black: a window of its toolkit shows nothing on {server} with {mesa} ({icd}){frames}"
            );
            Check::fail(NAME, found)
        }
        Verdict::Other(seen) => Check::fail(
            NAME,
            format!("Zed would be drawn wrongly on {server} with {mesa}: colours {}{frames}", colours(seen)),
        ),
    };
    // A new one that is black all the same is not mended by another one of the same age.
    if is_new { check.next("try another driver: helixctl doctor --vulkan-icd FILE") } else { check.next(FIX) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn driver(version: &str) -> Driver {
        Driver { icd: PathBuf::from("/icd.d/lvp_icd.json"), version: Some(version.to_owned()) }
    }

    #[test]
    fn each_outcome_says_what_it_means_and_what_mends_it() {
        let said = |verdict, drawn, version: &str| {
            let look = Look { verdict, drawn, took: Duration::from_millis(620) };
            let check = judge(&look, Display::Tigervnc, &driver(version));
            format!("{:?}: {}\n  next: {}", check.state, check.found, check.next.unwrap_or_default())
        };
        let other = Verdict::Other([0x00ff_0000, 0, 0, 0x00ab_cdef]);
        let all = [
            said(Verdict::Right, true, "25.0.7"),
            said(Verdict::Black, true, "22.3.6"),
            said(Verdict::Black, false, "25.0.7"),
            said(Verdict::NoLetters, true, "25.0.7"),
            said(other, true, "22.3.6"),
        ];
        insta::assert_snapshot!(all.join("\n"), @r"
        Ok: seen on Xtigervnc with Mesa 25.0.7, 620 ms after its start
          next: 
        Fail: Zed would be black: a window of its toolkit shows nothing on Xtigervnc with Mesa 22.3.6 (/icd.d/lvp_icd.json)
          next: packaging/setup.sh mesa
        Fail: Zed would be black: a window of its toolkit shows nothing on Xtigervnc with Mesa 25.0.7 (/icd.d/lvp_icd.json), and drew no frame in time
          next: try another driver: helixctl doctor --vulkan-icd FILE
        Fail: a window of Zed's toolkit has no letters on Xtigervnc: no font is found
          next: packaging/setup.sh runtime, or: apt-get install -y fonts-dejavu-core
        Fail: Zed would be drawn wrongly on Xtigervnc with Mesa 22.3.6: colours #ff0000 #000000 #000000 #abcdef
          next: packaging/setup.sh mesa
        ");
    }

    #[test]
    fn the_probe_gets_what_the_kind_gives_to_zed() {
        let env = environment(&driver("25.0.7"));
        let value = |name: &str| env.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!(value("ZED_ALLOW_EMULATED_GPU"), Some("1"));
        assert_eq!(value("LIBGL_ALWAYS_SOFTWARE"), Some("1"));
        assert_eq!(value("VK_DRIVER_FILES"), Some("/icd.d/lvp_icd.json"));
        assert!(env.iter().all(|(_, value)| !value.contains('{')), "{env:?}");
    }
}
