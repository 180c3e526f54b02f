//! Sessions in images, on hosts: pushed, fetched by delta, switched under sessions that run, rolled back, evicted; what is
//! wrong with one; and what an agentd that is killed in a pull leaves. The images are of the hosts' own Debian.

mod roots;
mod shipped;
mod stage;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use helix_tests::{Api, archive};
use serde_json::{Value, json};

use self::stage::{ROOTS, SIGNERS, Stage};
use crate::fleet::Fleet;
use crate::harness::{Case, Host, Suite, say};
use crate::units::Units;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("sessions_run_in_images", || sessions_run_in_images(Suite::Bookworm)),
        Case::thorough("sessions_run_in_images_on_trixie", || sessions_run_in_images(Suite::Trixie)),
        Case::always("images_are_switched_under_running_sessions", images_are_switched_under_running_sessions),
        Case::always("a_pull_survives_kill_9", a_pull_survives_kill_9),
        Case::always("what_is_wrong_with_an_image_is_told", what_is_wrong_with_an_image_is_told),
        Case::always("two_root_systems_build_one_image", roots::two_root_systems_build_one_image).needs(archive::fetch),
        Case::thorough("a_start_in_an_image_takes_no_longer", a_start_in_an_image_takes_no_longer),
        Case::thorough("the_shipped_browser_shows_a_page_in_its_image", the_shipped_browser_shows_a_page_in_its_image)
            .needs(|| shipped::build("browser")),
    ]
}

/// What a command in a session says.
async fn exec(api: &Api, session: &str, command: &str) -> Result<String> {
    let path = format!("/api/v1/sessions/{session}/exec");
    let done: Value = api.post(&path, &json!({ "command": command })).await?.expect(200)?;
    let text = |name: &str| done[name].as_str().unwrap_or_default().to_owned();
    Ok(text("stdout") + &text("stderr"))
}

async fn in_image(fleet: &Fleet, id: &str, image: &str) -> Result<SessionView> {
    fleet.ready(&json!({ "id": id, "kind": "terminal", "image": image }), secs(180)).await
}

async fn sessions_run_in_images(suite: Suite) -> Result<()> {
    let stage = Stage::start(suite, "").await?;
    let (fleet, host) = (&stage.fleet, &stage.host);
    let api = fleet.api()?;
    let image = stage.build("dev", "one").await?;
    let pushed = stage.push("dev").await?;
    say(&format!("push: {pushed}"));
    ensure!(pushed["sent_chunks"].as_u64() > Some(10), "{pushed}");

    let input =
        "tool; id -un; pwd; tty; touch /usr/mine; touch /tmp/mine workspace-mine; ls -d /var/lib/helix; echo done";
    let asked = json!({ "id": "c", "kind": "command", "image": "dev", "input": input });
    let view = fleet.ready(&asked, secs(180)).await?;
    let step = view.timeline.iter().find(|step| step.step == "image").context("no step tells of the pull")?;
    say(&format!("the first session waited {} ms for its image", step.duration_ms.unwrap_or_default()));
    let result = api.wait_result("c", secs(20)).await?.result.context("no result")?;
    for word in ["one", "agent", "/home/workspace", "/dev/pts/", "Read-only file system", "done"] {
        ensure!(result.output_tail.contains(word), "no {word}: {}", result.output_tail);
    }
    ensure!(!result.output_tail.contains("\n/var/lib/helix\n"), "{}", result.output_tail);
    ensure!(view.spec.image.as_ref().map(ToString::to_string) == Some(image.to_string()), "{:?}", view.spec.image);

    // Agent and tools are inside; desktop and forward are the machine's.
    let units = Units::of(host, "c");
    let root = format!("{ROOTS}/{}/root", image.hex());
    ensure!(exec(&api, "c", "cat /etc/helix-image").await? == "one\n", "the tools are not inside");
    ensure!(
        units.property("app", "RootDirectory").await? == root
            && units.property("tools", "RootDirectory").await? == root
    );
    for word in ["display", "wm", "forward"] {
        ensure!(units.property(word, "RootDirectory").await?.is_empty(), "{word} is inside");
    }
    for property in ["NoNewPrivileges", "PrivateUsers", "PrivateDevices"] {
        ensure!(units.property("app", property).await? == "yes", "{property}");
    }
    // Who is root in the session's eyes owns the image; nothing of the machine is there.
    let seen = exec(&api, "c", "stat -c %U /usr/bin/tool; ls /sys/fs/cgroup /root; cat /proc/1/comm").await?;
    ensure!(seen.starts_with("root\n") && !seen.contains("systemd"), "{seen}");
    ensure!(exec(&api, "c", "ls /etc/helix /boot /var/log/journal 2>/dev/null; echo end").await?.ends_with("end\n"));
    ensure!(
        exec(&api, "c", "getent passwd agent | cut -d: -f6; cat /etc/machine-id | wc -c").await? == "/home/agent\n33\n"
    );

    // Its files are root's, and nothing of a session is left in what all share.
    ensure!(host.run_ok(&format!("stat -c '%U %a' {root} {root}/usr/bin/tool")).await? == "root 755\nroot 755");
    let changed = host.run_ok(&format!("find {root} -xdev -newermt '2024-01-01' -type f | head")).await?;
    ensure!(changed.is_empty(), "{changed}");
    let shown = eventually("the runner tells of its image", secs(20), || async {
        let runner = api.runners().await?.into_iter().next().context("no runner")?;
        ensure!(runner.images.present == [image], "{:?}", runner.images);
        Ok(runner)
    })
    .await?;
    ensure!(shown.facts.is_some_and(|facts| facts.no_images.is_none() && facts.image_keys.len() == 1));

    // A restart of agentd changes nothing: the session goes on, in its image.
    let before = units.invocations().await?;
    host.run_ok("systemctl kill -s KILL agentd").await?;
    fleet.online("r1").await?;
    // The server may not have missed it.
    eventually("its tools answer again", secs(40), || async {
        ensure!(exec(&api, "c", "tool").await? == "one\n");
        Ok(())
    })
    .await?;
    ensure!(units.invocations().await? == before, "something was started again");
    let user = units.user().await?;
    api.stop("c").await?;
    api.wait_phase("c", SessionPhase::Stopped, secs(20)).await?;
    units.gone(&user, secs(10)).await?;
    ensure!(host.run_ok(&format!("cat {root}/etc/passwd")).await?.starts_with("root:"), "the image was changed");
    stage.stop().await
}

async fn images_are_switched_under_running_sessions() -> Result<()> {
    let stage = Stage::start(Suite::Bookworm, "images_keep = 0").await?;
    let (fleet, host) = (&stage.fleet, &stage.host);
    let api = fleet.api()?;
    let one = stage.build("dev", "one").await?;
    let all = stage.push("dev").await?;
    let names = ["s1", "s2", "s3", "s4", "s5"];
    // All want the same image at once: one pull.
    futures::future::try_join_all(names.map(|id| in_image(fleet, id, "dev"))).await?;
    let received = stage.chunk_bytes().await?;

    let two = stage.build("dev", "two").await?;
    let delta = stage.push("dev").await?;
    in_image(fleet, "new", "dev").await?;
    let fetched = stage.chunk_bytes().await? - received;
    let share = |part: u64, of: u64| part as f64 * 100.0 / of as f64;
    let (sent, of) = (delta["sent_bytes"].as_u64().unwrap_or(0), all["sent_bytes"].as_u64().unwrap_or(1));
    say(&format!(
        "one file changed: {sent} of {of} bytes pushed ({:.2} %), {fetched} of {received} fetched ({:.2} %)",
        share(sent, of),
        share(fetched, received)
    ));
    ensure!(share(fetched, received) <= 5.0 && share(sent, of) <= 5.0, "more than the delta");
    for id in names {
        ensure!(exec(&api, id, "tool").await? == "one\n", "{id} lost its image");
    }
    ensure!(exec(&api, "new", "tool").await? == "two\n");

    // Back at once; nobody is disturbed. By digest the new one is still there.
    let rolled: Value = stage.helixctl(&["image", "remote", "rollback", "dev"]).await?;
    ensure!(rolled["digest"] == one.to_string(), "{rolled}");
    in_image(fleet, "back", "dev").await?;
    in_image(fleet, "named", &two.to_string()).await?;
    ensure!(exec(&api, "back", "tool").await? == "one\n" && exec(&api, "named", "tool").await? == "two\n");
    ensure!(exec(&api, "new", "tool").await? == "two\n");

    // Nobody needs the second any more: it goes, with the chunks that are its own. The first stays.
    for id in ["new", "named"] {
        api.stop(id).await?;
        api.wait_phase(id, SessionPhase::Stopped, secs(20)).await?;
    }
    eventually("the image that nobody uses is evicted", secs(20), || async {
        ensure!(present(host).await? == [one.hex()], "{:?}", present(host).await?);
        ensure!(stage.chunk_bytes().await? <= received, "its chunks are there");
        Ok(())
    })
    .await?;
    for id in names {
        ensure!(exec(&api, id, "tool").await? == "one\n", "{id} lost its image");
    }
    stage.stop().await
}

/// Images that are complete on a host.
async fn present(host: &Host) -> Result<Vec<String>> {
    Ok(host.run_ok(&format!("ls {ROOTS}")).await?.lines().map(ToOwned::to_owned).collect())
}

async fn a_pull_survives_kill_9() -> Result<()> {
    let stage = Stage::start(Suite::Bookworm, "").await?;
    let (fleet, host) = (&stage.fleet, &stage.host);
    let api = fleet.api()?;
    let image = stage.build("dev", "one").await?;
    stage.push("dev").await?;
    api.create(&json!({ "id": "s", "kind": "terminal", "image": "dev" })).await?;
    let listed =
        "find /var/lib/helix/agentd/images/chunks -type f ! -name '*.new' -printf '%f %i\\n' 2>/dev/null | sort";
    let early = eventually("some chunks are here", secs(60), || async {
        let early = host.run(listed).await?.stdout;
        ensure!(early.lines().count() > 20, "{early}");
        Ok(early)
    })
    .await?;
    host.run_ok("systemctl kill -s KILL agentd").await?;
    ensure!(!host.run_ok(&format!("ls {ROOTS}")).await?.contains(&format!("{}\n", image.hex())), "it was complete");
    // And the network is away for a while.
    fleet.online("r1").await?;
    host.partition()?;
    tokio::time::sleep(secs(3)).await; // that is the time for which it is away
    host.heal()?;
    api.wait_phase("s", SessionPhase::Ready, secs(180)).await?;
    ensure!(exec(&api, "s", "tool").await? == "one\n");
    let late = host.run_ok(listed).await?;
    let again: Vec<_> = early.lines().filter(|line| !late.contains(line)).collect();
    ensure!(again.is_empty(), "fetched again: {again:?}");
    ensure!(present(host).await? == [image.hex()], "something half done is left: {:?}", present(host).await?);
    stage.stop().await
}

/// Waits for the end of a session that cannot start; code and words of its cause.
async fn refused(fleet: &Fleet, id: &str, image: &str) -> Result<(String, String)> {
    fleet.api()?.create(&json!({ "id": id, "kind": "terminal", "image": image })).await?;
    let ended = fleet.until(id, "is refused", secs(120), |view| view.phase.is_terminal()).await?;
    let cause = ended.cause.context("no cause")?;
    ensure!(cause.step.as_deref() == Some("image"), "{cause:?}");
    Ok((cause.code, cause.message))
}

async fn what_is_wrong_with_an_image_is_told() -> Result<()> {
    let stage = Stage::start(Suite::Bookworm, "").await?;
    let (fleet, host) = (&stage.fleet, &stage.host);
    let api = fleet.api()?;
    let good = stage.build("dev", "one").await?;
    stage.push("dev").await?;
    in_image(fleet, "runs", "dev").await?;
    let untouched = async || Ok::<_, anyhow::Error>(exec(&api, "runs", "tool").await? == "one\n");

    // Signed by somebody whom this machine does not know; then it knows nobody at all.
    let own = host.get(SIGNERS).await?;
    let other = stage.build("other", "two").await?;
    stage.push("other").await?;
    host.write(SIGNERS, &stage.stranger()?, 0o644).await?;
    let (code, words) = refused(fleet, "stranger", "other").await?;
    ensure!(
        code == "image_not_trusted" && words.contains(&stage.fingerprint()?) && words.contains(SIGNERS),
        "{code} {words}"
    );
    host.run_ok(&format!("rm {SIGNERS}")).await?;
    let (code, words) = refused(fleet, "nobody", "other").await?;
    ensure!(code == "image_not_trusted" && words.contains("helixctl provision"), "{code} {words}");
    host.write(SIGNERS, &own, 0o644).await?;

    // No room: said before anything is fetched.
    let images = "/var/lib/helix/agentd/images";
    host.run_ok(&format!("mkdir -p {images}/chunks && mount -t tmpfs -o size=32M none {images}/chunks")).await?;
    let room = host.run(&format!("systemctl restart agentd && mount | grep -c {images}/chunks")).await?;
    ensure!(room.stdout.trim() == "1", "{room:?}");
    fleet.online("r1").await?;
    let (code, words) = refused(fleet, "full", "other").await?;
    ensure!(code == "disk_full" && words.contains("make room"), "{code} {words}");
    host.run_ok(&format!("systemctl stop agentd; umount {images}/chunks; systemctl start agentd")).await?;
    fleet.online("r1").await?;

    // Damaged on this disk: fetched once more. Damaged at the server: refused.
    let chunk = stage.own_chunk(&other, &good)?;
    let file = format!("{images}/chunks/{}/{}", &chunk.hex()[..2], chunk.hex());
    host.run_ok(&format!("install -d -m 700 $(dirname {file}) && echo damaged > {file}")).await?;
    in_image(fleet, "mended", "other").await?;
    ensure!(exec(&api, "mended", "tool").await? == "two\n");
    let third = stage.build("third", "three").await?;
    stage.push("third").await?;
    stage.damage(stage.own_chunk(&third, &other)?).await?;
    let (code, words) = refused(fleet, "damaged", "third").await?;
    ensure!(code == "image_damaged" && words.contains("push the image again"), "{code} {words}");

    // For other machines: no runner takes it.
    stage.build_for("arm64", "foreign", "four").await?;
    stage.push("foreign").await?;
    api.create(&json!({ "id": "foreign", "kind": "terminal", "image": "foreign" })).await?;
    let waits = fleet.until("foreign", "is told why it waits", secs(20), |view| view.cause.is_some()).await?;
    let cause = waits.cause.context("no cause")?;
    ensure!(waits.phase == SessionPhase::Pending && cause.message.contains("arm64"), "{cause:?}");

    // A tag that is not there: the tags that are.
    let unknown = api.post("/api/v1/sessions", &json!({ "id": "x", "image": "dev:no" })).await?;
    let problem = unknown.problem(404, "image_not_found")?;
    ensure!(problem.detail.contains("latest"), "{problem:?}");
    ensure!(untouched().await?, "a running session was touched");
    stage.stop().await
}

async fn a_start_in_an_image_takes_no_longer() -> Result<()> {
    let stage = Stage::start(Suite::Bookworm, "").await?;
    let api = stage.fleet.api()?;
    stage.build("dev", "one").await?;
    stage.push("dev").await?;
    in_image(&stage.fleet, "first", "dev").await?;
    let mut times = [Vec::new(), Vec::new()];
    let mut steps = [BTreeMap::<String, Vec<f64>>::new(), BTreeMap::new()];
    // In turns: the machine does other things, too.
    for round in 0..12 {
        for (which, times) in times.iter_mut().enumerate() {
            let id = format!("s{round}-{which}");
            let mut asked = json!({ "id": id, "kind": "terminal" });
            if which == 1 {
                asked["image"] = json!("dev");
            }
            let view = stage.fleet.ready(&asked, secs(60)).await?;
            let at =
                |name: &str| view.timeline.iter().find(|step| step.step == name).map(|step| step.at).context("no step");
            times.push(at("ready")?.duration_since(at("received")?).as_secs_f64() * 1000.0);
            for step in &view.timeline {
                if let Some(took) = step.duration_ms {
                    steps[which].entry(step.step.clone()).or_default().push(took as f64);
                }
            }
            api.stop(&id).await?;
            api.wait_phase(&id, SessionPhase::Stopped, secs(20)).await?;
        }
    }
    let [without, within] = times.map(|times| crate::figures::Figures::of(times, "ms"));
    let longer = within.at(0.5) - without.at(0.5);
    say(&format!(
        "received to ready: without an image {without}; in an image {within}; difference of medians {longer:.1} ms"
    ));
    for (name, took) in &steps[1] {
        let median = |took: &[f64]| crate::figures::Figures::of(took.iter().copied(), "ms").at(0.5);
        let without = steps[0].get(name).map_or(0.0, |took| median(took));
        say(&format!("step {name}: {without:.0} ms without, {:.0} ms in an image", median(took)));
    }
    stage.stop().await
}

async fn the_shipped_browser_shows_a_page_in_its_image() -> Result<()> {
    let stage = Stage::start(Suite::Bookworm, "").await?;
    let api = stage.fleet.api()?;
    say(&format!("push: {}", stage.push_shipped("browser").await?));
    let page = "data:text/html,<body style='background:rgb(255,0,0)'>";
    let asked = json!({ "id": "web", "kind": "browser", "image": "browser", "env": { "HELIX_BROWSER_URL": page } });
    stage.fleet.ready(&asked, secs(300)).await?;
    eventually("the page is shown", secs(60), || async {
        let shot = format!("{}/api/v1/sessions/web/screenshot?format=raw&cursor=false", api.base());
        let raw = reqwest::Client::new().get(shot).bearer_auth(api.token()).send().await?.bytes().await?;
        let red = raw.chunks_exact(4).filter(|pixel| pixel[..3] == [0, 0, 255] || pixel[..3] == [255, 0, 0]).count();
        ensure!(red * 2 > raw.len() / 4, "{red} red pixels of {}", raw.len() / 4);
        Ok(())
    })
    .await?;
    // Its pages are kept apart by its own sandbox, which the unit lets it make.
    let processes = stage.host.run_ok("ps -eo args | grep -i chrom").await?;
    ensure!(processes.contains("--type=renderer") && !processes.contains("--no-sandbox"), "{processes}");
    api.stop("web").await?;
    api.wait_phase("web", SessionPhase::Stopped, secs(20)).await?;
    stage.stop().await
}
