//! A real Chromium, driven through playwright-core by `tests/browser/driver.mjs`: one JSON command per line.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::rfb::Frame;
use crate::{programs, repository};

/// No command may take longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// A browser with one page.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// Where an element is.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Place {
    /// From the left.
    pub x: f64,
    /// From the top.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
    /// Nothing else lies on its middle.
    pub reachable: bool,
    /// Width of the whole page: more than the window's where one must scroll sideways.
    pub page: f64,
}

impl Browser {
    /// Starts it with a fresh profile in `dir`.
    pub async fn start(dir: &Path) -> Result<Self> {
        Self::start_as(dir, "desktop").await
    }

    /// The same as on a phone: a small window, and fingers.
    pub async fn phone(dir: &Path) -> Result<Self> {
        Self::start_as(dir, "touch").await
    }

    async fn start_as(dir: &Path, device: &str) -> Result<Self> {
        let profile = dir.join("browser");
        std::fs::create_dir_all(&profile)?;
        let mut child = Command::new(programs::installed("node")?)
            .arg(repository().join("tests/browser/driver.mjs"))
            .arg(programs::chromium()?)
            .arg(&profile)
            .arg(device)
            .current_dir(repository().join("web"))
            .env("HOME", &profile)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start node")?;
        let commands = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let mut browser = Self { child, commands, answers };
        browser.answer().await.context("the browser did not start")?;
        Ok(browser)
    }

    async fn answer(&mut self) -> Result<Value> {
        let line = timeout(PATIENCE, self.answers.next_line()).await.context("the browser fell silent")??;
        let answer: Value = serde_json::from_str(&line.context("the browser's driver ended")?)?;
        match answer.get("error").and_then(Value::as_str) {
            Some(fault) => bail!("browser: {fault}"),
            None => Ok(answer.get("value").cloned().unwrap_or(Value::Null)),
        }
    }

    async fn command(&mut self, command: Value) -> Result<Value> {
        let mut line = serde_json::to_vec(&command)?;
        line.push(b'\n');
        self.commands.write_all(&line).await?;
        self.commands.flush().await?;
        self.answer().await.with_context(|| command["do"].to_string())
    }

    /// Opens an address.
    pub async fn open(&mut self, url: &str) -> Result<()> {
        self.command(json!({"do": "open", "url": url})).await?;
        Ok(())
    }

    /// Waits for an element.
    pub async fn wait(&mut self, selector: &str) -> Result<()> {
        self.command(json!({"do": "wait", "selector": selector})).await?;
        Ok(())
    }

    /// Text of every element that fits.
    pub async fn texts(&mut self, selector: &str) -> Result<Vec<String>> {
        Ok(serde_json::from_value(self.command(json!({"do": "texts", "selector": selector})).await?)?)
    }

    /// Address in the address bar.
    pub async fn address(&mut self) -> Result<String> {
        Ok(serde_json::from_value(self.command(json!({"do": "address"})).await?)?)
    }

    /// Types text on the keyboard, wherever the focus is.
    pub async fn type_text(&mut self, text: &str) -> Result<()> {
        self.command(json!({"do": "type", "text": text})).await?;
        Ok(())
    }

    /// Presses a key by name.
    pub async fn press(&mut self, key: &str) -> Result<()> {
        self.command(json!({"do": "press", "key": key})).await?;
        Ok(())
    }

    /// Presses and releases a key of any layout: what it gives, and where it is.
    pub async fn key(&mut self, key: &str, code: &str) -> Result<()> {
        self.command(json!({"do": "key", "key": key, "code": code})).await?;
        Ok(())
    }

    /// The same with Control, as far as the page is told.
    pub async fn control_key(&mut self, key: &str, code: &str) -> Result<()> {
        for (act, key, code) in [
            ("key_down", "Control", "ControlLeft"),
            ("key_down", key, code),
            ("key_up", key, code),
            ("key_up", "Control", "ControlLeft"),
        ] {
            self.command(json!({"do": act, "key": key, "code": code, "control": true})).await?;
        }
        Ok(())
    }

    /// Presses a key and holds it, or releases it.
    pub async fn hold(&mut self, key: &str, code: &str, down: bool) -> Result<()> {
        let act = if down { "key_down" } else { "key_up" };
        self.command(json!({"do": act, "key": key, "code": code})).await?;
        Ok(())
    }

    /// Writes by an input method: what it shows meanwhile, then what it means.
    pub async fn compose(&mut self, drafts: &[&str], text: &str) -> Result<()> {
        self.command(json!({"do": "compose", "drafts": drafts, "text": text})).await?;
        Ok(())
    }

    /// Puts a text into the clipboard of the browser's machine.
    pub async fn copy(&mut self, text: &str) -> Result<()> {
        self.command(json!({"do": "copy", "text": text})).await?;
        Ok(())
    }

    /// What is in that clipboard.
    pub async fn copied(&mut self) -> Result<String> {
        Ok(serde_json::from_value(self.command(json!({"do": "copied"})).await?)?)
    }

    /// What a field has.
    pub async fn value(&mut self, selector: &str) -> Result<String> {
        Ok(serde_json::from_value(self.command(json!({"do": "value", "selector": selector})).await?)?)
    }

    /// Touches an element with one finger.
    pub async fn tap(&mut self, selector: &str) -> Result<()> {
        self.command(json!({"do": "tap", "selector": selector})).await?;
        Ok(())
    }

    /// Puts fingers on the middle of an element, moves them and takes them away.
    pub async fn touch(&mut self, selector: &str, fingers: u8, (dx, dy): (i32, i32)) -> Result<()> {
        self.command(json!({"do": "touch", "selector": selector, "fingers": fingers, "dx": dx, "dy": dy})).await?;
        Ok(())
    }

    /// Chooses files of this machine in a field for them.
    pub async fn files(&mut self, selector: &str, paths: &[&Path]) -> Result<()> {
        self.command(json!({"do": "files", "selector": selector, "paths": paths})).await?;
        Ok(())
    }

    /// Drops a file of this text on an element.
    pub async fn drop_file(&mut self, selector: &str, name: &str, text: &str) -> Result<()> {
        self.command(json!({"do": "drop", "selector": selector, "name": name, "text": text})).await?;
        Ok(())
    }

    /// Clicks on what begins a download and waits until it is at `path`. The name that the page gives it.
    pub async fn download(&mut self, selector: &str, path: &Path) -> Result<String> {
        let command = json!({"do": "download", "selector": selector, "path": path});
        Ok(serde_json::from_value(self.command(command).await?)?)
    }

    /// Fills a form's field.
    pub async fn fill(&mut self, selector: &str, text: &str) -> Result<()> {
        self.command(json!({"do": "fill", "selector": selector, "text": text})).await?;
        Ok(())
    }

    /// Chooses an option of a list by its value.
    pub async fn choose(&mut self, selector: &str, value: &str) -> Result<()> {
        self.command(json!({"do": "choose", "selector": selector, "value": value})).await?;
        Ok(())
    }

    /// Clicks on an element, once it can be clicked.
    pub async fn click(&mut self, selector: &str) -> Result<()> {
        self.command(json!({"do": "click", "selector": selector})).await?;
        Ok(())
    }

    /// Gives the window another size.
    pub async fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        self.command(json!({"do": "resize", "width": width, "height": height})).await?;
        Ok(())
    }

    /// Where an element is, in pixels of the window.
    pub async fn place(&mut self, selector: &str) -> Result<Place> {
        Ok(serde_json::from_value(self.command(json!({"do": "box", "selector": selector})).await?)?)
    }

    /// Id, or else tag, of the element that has the keyboard.
    pub async fn focused(&mut self) -> Result<String> {
        Ok(serde_json::from_value(self.command(json!({"do": "focused"})).await?)?)
    }

    /// Pixels of the page's canvas.
    pub async fn canvas(&mut self, dir: &Path) -> Result<Frame> {
        let file = dir.join("canvas.rgba");
        let answer = self.command(json!({"do": "canvas", "path": file})).await?;
        let side = |name: &str| answer[name].as_u64().map(|side| side as usize).context("no size");
        let (width, height) = (side("width")?, side("height")?);
        let bytes = std::fs::read(&file)?;
        ensure!(bytes.len() == width * height * 4, "{} bytes for {width}x{height}", bytes.len());
        let pixel = |rgba: &[u8]| u32::from_be_bytes([0, rgba[0], rgba[1], rgba[2]]);
        Ok(Frame { width, height, pixels: bytes.chunks_exact(4).map(pixel).collect() })
    }

    /// Moves a recording's bar to a time in milliseconds. Answers how long it takes until that is shown, in milliseconds.
    pub async fn seek(&mut self, milliseconds: u64) -> Result<f64> {
        self.command(json!({"do": "seek", "milliseconds": milliseconds})).await?.as_f64().context("no time")
    }

    /// A picture of the page.
    pub async fn screenshot(&mut self, path: &Path) -> Result<()> {
        self.command(json!({"do": "screenshot", "path": path})).await?;
        Ok(())
    }

    /// What the page said on its console since the last time: errors, warnings, exceptions, CSP violations.
    pub async fn complaints(&mut self) -> Result<Vec<String>> {
        Ok(serde_json::from_value(self.command(json!({"do": "complaints"})).await?)?)
    }

    /// Every address outside of `origin` that the page asked for.
    pub async fn foreign_requests(&mut self, origin: &str) -> Result<Vec<String>> {
        let all: Vec<String> = serde_json::from_value(self.command(json!({"do": "requests"})).await?)?;
        let own = |url: &String| url.starts_with(origin) || url.starts_with("data:") || url.starts_with("blob:");
        Ok(all.into_iter().filter(|url| !own(url)).collect())
    }

    /// How often the page asked for an address that ends so.
    pub async fn asked(&mut self, ending: &str) -> Result<usize> {
        let all: Vec<String> = serde_json::from_value(self.command(json!({"do": "requests"})).await?)?;
        Ok(all.iter().filter(|url| url.ends_with(ending)).count())
    }

    /// Ends it.
    pub async fn close(mut self) -> Result<()> {
        self.command(json!({"do": "close"})).await?;
        timeout(PATIENCE, self.child.wait()).await.context("the browser did not end")??;
        Ok(())
    }
}
