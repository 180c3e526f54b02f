//! A window of GPUI, Zed's own toolkit, with a picture that is known: `helixctl doctor` looks whether it is seen.
//!
//! Four rectangles fill the window, with some letters in the middle of the first one. After [`FRAMES`] frames it says
//! `drawn` on standard output: by then the display server has taken the first ones, as a swapchain holds fewer. It
//! ends when standard input is closed or after the seconds that its argument names, and exits 1, with the reason on
//! standard error, when it gets no window. Nothing here says whether the picture was right: with an old Mesa the
//! window stays black, and the toolkit does not notice.

use std::io::{Read as _, Write as _};
use std::process::exit;
use std::time::Duration;

use gpui::{App, Application, Context, Render, TitlebarOptions, Window, WindowOptions, div, prelude::*, px, rgb};

/// Colours of the rectangles, from the upper left one by rows. `helixctl doctor` has the same four.
const COLOURS: [u32; 4] = [0x00c8_3232, 0x0032_c832, 0x0032_32c8, 0x00c8_c832];
const LETTERS: u32 = 0x00ff_ffff;
/// More than any swapchain holds.
const FRAMES: u32 = 8;
/// Seconds until it ends by itself, without an argument.
const PATIENCE: u64 = 60;

struct Picture {
    frames: u32,
}

impl Render for Picture {
    fn render(&mut self, window: &mut Window, _: &mut Context<Self>) -> impl IntoElement {
        self.frames += 1;
        match self.frames {
            0..FRAMES => window.request_animation_frame(),
            FRAMES => window.on_next_frame(|_, _| say("drawn")),
            _ => {}
        }
        let row = |from| div().flex().flex_1().w_full().children(COLOURS[from..from + 2].iter().enumerate().map(
            move |(column, colour)| {
                let rectangle = div().flex_1().h_full().flex().items_center().justify_center().bg(rgb(*colour));
                if from + column > 0 { rectangle } else { rectangle.child("Helix Helix Helix") }
            },
        ));
        div().flex().flex_col().size_full().text_size(px(32.0)).text_color(rgb(LETTERS)).child(row(0)).child(row(2))
    }
}

fn main() {
    let patience = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(PATIENCE);
    // Two ways to end, whatever the toolkit does meanwhile.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        exit(0);
    });
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(patience));
        eprintln!("helix-gpui-probe: {patience} s are over");
        exit(1);
    });
    Application::new().run(|cx: &mut App| {
        let options = WindowOptions {
            titlebar: Some(TitlebarOptions { title: Some("helix-gpui-probe".into()), ..Default::default() }),
            ..Default::default()
        };
        match cx.open_window(options, |_, cx| cx.new(|_| Picture { frames: 0 })) {
            Ok(_) => say("window"),
            Err(error) => {
                eprintln!("helix-gpui-probe: no window: {error:#}");
                exit(1);
            }
        }
        cx.activate(true);
    });
}

/// One line to whoever started this; nobody is left when it cannot be written.
fn say(word: &str) {
    let mut stdout = std::io::stdout().lock();
    if writeln!(stdout, "{word}").and_then(|()| stdout.flush()).is_err() {
        exit(0);
    }
}
