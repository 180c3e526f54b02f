//! Checks that the dashboard was built: its files are embedded into the server.

use std::path::Path;

fn main() {
    let dist = Path::new("../web/dist");
    println!("cargo::rerun-if-changed=../web/dist");
    for page in ["index.html", "view.html", "replay.html"] {
        if !dist.join(page).is_file() {
            println!(
                "cargo::error=web/dist/{page} is missing: the dashboard is not built; run `make build` at the top"
            );
        }
    }
}
