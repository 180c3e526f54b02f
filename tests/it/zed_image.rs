//! What recipe `zed` is for: with the driver that it brings, a window of Zed's toolkit is seen where the machine's own would be
//! black. The image has the recipe's own packages, of the real archive, and that window in the editor's place.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use helix_tests::runner::RunnerSpec;
use helix_tests::{Cluster, programs};
use helixctl::images::recipe::find;
use serde_json::json;

use crate::cli::Cli;
use crate::machine_images::{build, image, key, succeeded};

/// The window's four rectangles, by rows: red, green, blue.
const COLOURS: [[u8; 3]; 4] = [[0xc8, 0x32, 0x32], [0x32, 0xc8, 0x32], [0x32, 0x32, 0xc8], [0xc8, 0xc8, 0x32]];
/// Size of the desktop.
const SIDES: (usize, usize) = (1024, 640);

/// The packages of the shipped recipe and its distribution, without what its parents have for other purposes.
fn recipe(dir: &Path) -> Result<()> {
    let mut packages = find("zed", None)?.recipe.packages;
    ensure!(packages.contains("mesa-vulkan-drivers"), "{packages:?}");
    packages.extend(["dbus-daemon", "fonts-dejavu-core"].map(str::to_owned));
    let packages: Vec<String> = packages.into_iter().collect();
    let suite = find("base", None)?.recipe.from.context("base is of no distribution")?.suite;
    // The window ends with its standard input.
    let zed = "#!/bin/sh\nsleep 1000 | exec /usr/local/bin/window 1000\n";
    std::fs::copy(programs::ours("helix-gpui-probe").context("make probe")?, dir.join("window"))?;
    let text = format!(
        "name = \"zed-window\"\ndescription = \"x\"\nkinds = [\"zed\"]\npackages = {packages:?}\n\
         [from]\ndistribution = \"debian\"\nsuite = \"{suite}\"\n\
         [[files]]\npath = \"/usr/local/bin/window\"\nsource = \"window\"\nmode = \"0755\"\n\
         [[files]]\npath = \"/usr/local/bin/zed\"\ncontent = {zed:?}\nmode = \"0755\"\n"
    );
    Ok(std::fs::write(dir.join("zed-window.toml"), text)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn zed_is_seen_with_the_driver_of_its_recipe() -> Result<()> {
    helix_tests::init();
    let dir = tempfile::tempdir()?;
    recipe(dir.path())?;
    build(&dir.path().join("zed-window.toml")).await?;
    let signers = key().await?.with_extension("key.pub").display().to_string();
    // The machine's own driver is one with which Zed is black: that of the image counts.
    let (icd, none) =
        (programs::old_vulkan_icd()?.display().to_string(), dir.path().join("none").display().to_string());
    let settings = format!("image_signers = {signers:?}\nvulkan_icd = {icd:?}\nzed_binary = {none:?}\n");
    let cluster = Cluster::builder().runner(RunnerSpec { settings, ..RunnerSpec::new("r1") }).start().await?;
    let (api, cli) = (cluster.api()?, Cli::new(&cluster)?);
    succeeded(&image(&["push", "zed-window", "--url", &cli.url, "--token-file", &cli.token_file]).await?)?;
    api.create(&json!({ "id": "z", "image": "zed-window" })).await?;
    let view = api.wait_phase("z", SessionPhase::Ready, secs(240)).await?;
    cluster.remember(&view);
    ensure!(view.kind.as_ref().is_some_and(|kind| kind.as_str() == "zed"), "{:?}", view.kind);

    let file = dir.path().join("z.raw");
    let to = file.display().to_string();
    eventually("the window's rectangles are seen", secs(60), || async {
        cli.plain(0, &["session", "screenshot", "z", "--format", "raw", "--no-cursor", "-o", &to]).await?;
        let pixels = std::fs::read(&file)?;
        ensure!(pixels.len() == SIDES.0 * SIDES.1 * 4, "{} bytes", pixels.len());
        for (number, colour) in COLOURS.iter().enumerate() {
            let (x, y) = (SIDES.0 / 8 + number % 2 * SIDES.0 / 2, SIDES.1 / 8 + number / 2 * SIDES.1 / 2);
            let at = (y * SIDES.0 + x) * 4;
            let seen = &pixels[at..at + 3];
            ensure!(seen.iter().zip(colour).all(|(one, other)| one.abs_diff(*other) < 5), "{seen:?} at {x},{y}");
        }
        Ok(())
    })
    .await?;
    api.delete_session("z", secs(60)).await?;
    cluster.shutdown().await
}
