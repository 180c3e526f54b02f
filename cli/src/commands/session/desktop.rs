//! `session screenshot|input|clipboard|windows|display|cursor|wait`: a session's desktop from the command line.

pub mod action;

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use helix_protocol::SessionId;
use helix_protocol::desktop::{
    Clipboard, DisplaySize, Input, MAX_CLIPBOARD_BYTES, Region, Wait, WaitFor, WindowAction, WindowView,
};
use serde::Serialize;

use self::action::Word;
use crate::client::{Client, PictureFile};
use crate::error::{CliError, Kind, Result};
use crate::ui::{Ui, plain_table};

/// Longest file of actions.
const MAX_ACTIONS_BYTES: u64 = 1 << 20;

/// How a picture is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Png,
    Jpeg,
    Webp,
    Raw,
}

impl Format {
    fn word(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
            Self::Raw => "raw",
        }
    }

    /// What the end of a file's name says.
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|end| end.to_str()).unwrap_or_default() {
            "jpg" | "jpeg" => Self::Jpeg,
            "webp" => Self::Webp,
            "raw" => Self::Raw,
            _ => Self::Png,
        }
    }
}

/// Arguments of `session screenshot`.
#[derive(Debug, Args)]
pub struct ScreenshotArgs {
    /// Session id
    id: SessionId,
    /// File to write; `-` is standard output
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// How it is encoded; where left out, as the file's name ends, else png
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Only this part of the screen: x,y,width,height in pixels
    #[arg(long, value_name = "X,Y,W,H")]
    region: Option<Region>,
    /// 0.1 to 1: each side is that much of the original
    #[arg(long, value_name = "FACTOR")]
    scale: Option<f64>,
    /// Quality of a JPEG, 1 to 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: Option<u8>,
    /// Leave the pointer out
    #[arg(long)]
    no_cursor: bool,
}

/// What `--json` says of a picture.
#[derive(Serialize)]
struct Written<'a> {
    file: &'a Path,
    #[serde(flatten)]
    picture: &'a PictureFile,
}

/// Takes a picture and writes it.
pub async fn screenshot(client: &Client, args: ScreenshotArgs, ui: &Ui) -> Result<()> {
    let ScreenshotArgs { id, output, format, region, scale, quality, no_cursor } = args;
    let to_stdout = output == Path::new("-");
    let usage = |why: &str| {
        CliError::new(Kind::Usage, "cannot write the screenshot")
            .at("standard output")
            .because(why)
            .next(format!("helixctl session screenshot {id} -o {id}.png"))
    };
    if to_stdout && ui.json {
        return Err(usage("it would be mixed with what --json prints"));
    }
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(usage("it is a terminal"));
    }
    let mut query = vec![("format", format.unwrap_or_else(|| Format::of(&output)).word().to_owned())];
    query.extend(region.map(|region| ("region", region.to_string())));
    query.extend(scale.map(|scale| ("scale", scale.to_string())));
    query.extend(quality.map(|quality| ("quality", quality.to_string())));
    query.extend(no_cursor.then(|| ("cursor", "false".to_owned())));
    let picture = client.screenshot(&id, &query).await?;
    if to_stdout {
        return ui.raw(&picture.bytes);
    }
    std::fs::write(&output, &picture.bytes)
        .map_err(|error| CliError::failed("cannot write the screenshot").at(output.display()).because(error))?;
    let file = &*output;
    ui.answer(&Written { file, picture: &picture }, || {
        ui.note(&format!("{}x{} pixels in {}", picture.width, picture.height, file.display()));
        Ok(())
    })
}

/// Arguments of `session input`.
#[derive(Debug, Args)]
pub struct InputArgs {
    /// Session id
    id: SessionId,
    /// What is done, one after the other: text=…, key=ctrl+c, click=X,Y, click2=X,Y, right=X,Y, move=X,Y,
    /// drag=X,Y,X,Y…, scroll=X,Y,STEPS, wait=MS, frame
    #[arg(value_name = "ACTION", required_unless_present = "actions", conflicts_with = "actions")]
    words: Vec<Word>,
    /// The same as the API takes it: a JSON file with `{"actions": [...]}`; `-` is standard input
    #[arg(long, value_name = "FILE")]
    actions: Option<PathBuf>,
}

/// Does the actions.
pub async fn input(client: &Client, args: InputArgs, ui: &Ui) -> Result<()> {
    let input = match &args.actions {
        Some(file) => actions(file)?,
        None => Input { actions: args.words.into_iter().map(|Word(action)| action).collect() },
    };
    let done = client.input(&args.id, &input).await?;
    ui.answer(&done, || {
        ui.note(&format!("done: {}", done.done));
        Ok(())
    })
}

fn actions(file: &Path) -> Result<Input> {
    let place = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
    let bad = |why: String| CliError::new(Kind::Usage, "cannot read the actions").at(&place).because(why);
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(MAX_ACTIONS_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(MAX_ACTIONS_BYTES).read_to_string(&mut text))
    };
    read.map_err(|error| bad(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| bad(error.to_string()))
}

/// The text in a session's clipboard
#[derive(Debug, Subcommand)]
pub enum ClipboardCommand {
    /// Print it
    Get {
        /// Session id
        id: SessionId,
    },
    /// Put another text there
    Set {
        /// Session id
        id: SessionId,
        /// The text; `-` is standard input
        #[arg(allow_hyphen_values = true)]
        text: String,
    },
}

/// Reads or sets the clipboard.
pub async fn clipboard(client: &Client, command: ClipboardCommand, ui: &Ui) -> Result<()> {
    match command {
        ClipboardCommand::Get { id } => {
            let clipboard = client.clipboard(&id).await?;
            ui.answer(&clipboard, || ui.raw(clipboard.text.as_bytes()))
        }
        ClipboardCommand::Set { id, text } => {
            let text = if text == "-" { crate::stdin::text("clipboard set", MAX_CLIPBOARD_BYTES)? } else { text };
            client.set_clipboard(&id, &Clipboard { text }).await
        }
    }
}

/// The windows on a session's desktop
#[derive(Debug, Subcommand)]
pub enum WindowsCommand {
    /// List them
    List {
        /// Session id
        id: SessionId,
    },
    /// Bring one to the front; keys go to it
    Focus(WindowArgs),
    /// Make one as large as the screen
    Maximise(WindowArgs),
    /// Give one the size back that it had before
    Restore(WindowArgs),
    /// Ask one to close, as by its button
    Close(WindowArgs),
}

/// Which window.
#[derive(Debug, Args)]
pub struct WindowArgs {
    /// Session id
    id: SessionId,
    /// Window id of `windows list`
    window: u32,
}

/// Lists windows or does something to one.
pub async fn windows(client: &Client, command: WindowsCommand, ui: &Ui) -> Result<()> {
    let (action, WindowArgs { id, window }) = match command {
        WindowsCommand::List { id } => {
            let list = client.windows(&id).await?;
            return ui.answer(&list, || show(ui, &list.windows));
        }
        WindowsCommand::Focus(args) => (WindowAction::Focus, args),
        WindowsCommand::Maximise(args) => (WindowAction::Maximise, args),
        WindowsCommand::Restore(args) => (WindowAction::Restore, args),
        WindowsCommand::Close(args) => (WindowAction::Close, args),
    };
    match client.act_on_window(&id, window, action).await? {
        Some(view) => ui.answer(&view, || show(ui, std::slice::from_ref(&view))),
        None => Ok(()),
    }
}

fn show(ui: &Ui, windows: &[WindowView]) -> Result<()> {
    let rows: Vec<Vec<String>> = windows
        .iter()
        .map(|window| {
            let WindowView { id, title, class, pid, x, y, width, height, active, maximised } = window;
            let states = [(active, "active"), (maximised, "maximised")];
            let states: Vec<_> = states.iter().filter(|(is, _)| **is).map(|(_, word)| *word).collect();
            let pid = pid.map(|pid| pid.to_string()).unwrap_or_default();
            vec![
                id.to_string(),
                class.clone(),
                pid,
                format!("{width}x{height}+{x}+{y}"),
                states.join(" "),
                title.clone(),
            ]
        })
        .collect();
    ui.raw(plain_table(&["WINDOW", "CLASS", "PID", "PLACE", "STATE", "TITLE"], &rows).as_bytes())
}

/// Arguments of `session display`.
#[derive(Debug, Args)]
pub struct DisplayArgs {
    /// Session id
    id: SessionId,
    /// Another size, for example 1600x900
    #[arg(value_name = "WIDTHxHEIGHT", value_parser = parse_size)]
    size: Option<DisplaySize>,
}

fn parse_size(text: &str) -> Result<DisplaySize, String> {
    let sides = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    let (width, height) = sides.ok_or("write WIDTHxHEIGHT, for example 1600x900")?;
    Ok(DisplaySize { width, height })
}

/// Tells the size of the screen, or changes it.
pub async fn display(client: &Client, args: DisplayArgs, ui: &Ui) -> Result<()> {
    let view = match args.size {
        Some(size) => client.set_display(&args.id, &size).await?,
        None => client.display(&args.id).await?,
    };
    ui.answer(&view, || ui.line(&format!("{}x{}", view.width, view.height)))
}

/// Tells where the pointer is.
pub async fn cursor(client: &Client, id: &SessionId, ui: &Ui) -> Result<()> {
    let view = client.cursor(id).await?;
    ui.answer(&view, || ui.line(&format!("{},{}", view.x, view.y)))
}

/// Arguments of `session wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Session id
    id: SessionId,
    /// Until a pixel changes, instead of until nothing has changed for a while
    #[arg(long, conflicts_with = "quiet_ms")]
    change: bool,
    /// Only what happens in this part of the screen: x,y,width,height in pixels
    #[arg(long, value_name = "X,Y,W,H")]
    region: Option<Region>,
    /// Nothing has changed for so long
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    quiet_ms: u64,
    /// Longest wait in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

/// Waits for pixels; exit code 5 where the time is up before.
pub async fn wait(client: &Client, args: WaitArgs, ui: &Ui) -> Result<()> {
    let WaitArgs { id, change, region, quiet_ms, timeout } = args;
    let goal = if change { WaitFor::Change } else { WaitFor::Settle };
    let waited = client.wait_for_pixels(&id, &Wait { goal, region, timeout_ms: timeout * 1000, quiet_ms }).await?;
    if ui.json {
        ui.json(&waited)?;
    }
    if waited.reached {
        return Ok(());
    }
    let why = if change { "nothing changed" } else { "it changed all the time" };
    Err(CliError::new(Kind::TimedOut, "the desktop did not come there").because(format!("{why} within {timeout} s")))
}
