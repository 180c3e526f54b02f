//! Files over HTTP.

use anyhow::{Context as _, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use helix_tests::process::resident_kib;
use reqwest::{Body, Method, Response};
use serde_json::{Value, json};

use super::{desk, request, tools_of, workspace};

/// A megabyte that is not the same everywhere.
fn megabyte(number: u64) -> Vec<u8> {
    (0..1 << 17).flat_map(|at: u64| (number << 20 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

async fn ok(response: Response, status: u16) -> Result<Response> {
    if response.status() != status {
        anyhow::bail!("expected {status}: {} {}", response.status(), response.text().await?);
    }
    Ok(response)
}

async fn code(response: Response) -> Result<String> {
    let body: Value = response.json().await?;
    Ok(body["code"].as_str().context("no code")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_read_listed_and_removed() -> Result<()> {
    let (cluster, api, view) = desk().await?;
    let at = workspace(&view)?;
    let files = "desk/files";
    let put = |path: &'static str| request(&api, Method::PUT, files, &[("path", path)]);
    let get = |path: &'static str| request(&api, Method::GET, files, &[("path", path)]);

    let written: Value = ok(put("a/b/hello.txt")?.body("hello, world").send().await?, 200).await?.json().await?;
    ensure!(written["size"] == 12 && written["name"] == "hello.txt" && written["executable"] == false, "{written}");
    ensure!(std::fs::read(at.join("a/b/hello.txt"))? == b"hello, world");

    let read = ok(get("/workspace/a/b/hello.txt")?.send().await?, 200).await?;
    let header = |name: &str| read.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let etag = header("etag").context("no tag")?;
    ensure!(header("content-length").as_deref() == Some("12") && header("accept-ranges").as_deref() == Some("bytes"));
    ensure!(header("content-type").as_deref() == Some("application/octet-stream"));
    ensure!(written["etag"] == etag, "{written} {etag}");
    ensure!(read.text().await? == "hello, world");
    let part = ok(get("a/b/hello.txt")?.header("range", "bytes=7-9").send().await?, 206).await?;
    ensure!(part.headers()["content-range"] == "bytes 7-9/12");
    ensure!(part.text().await? == "wor");
    let again = get("a/b/hello.txt")?.header("if-none-match", &etag).send().await?;
    ensure!(again.status() == 304, "{}", again.status());
    let other = get("a/b/hello.txt")?.header("range", "bytes=7-9").header("if-range", "\"x\"").send().await?;
    ensure!(ok(other, 200).await?.text().await? == "hello, world", "a part of another file");
    let head = request(&api, Method::HEAD, files, &[("path", "a/b/hello.txt")])?.send().await?;
    ensure!(head.status() == 200 && head.headers()["content-length"] == "12" && head.headers()["etag"] == etag);
    let behind = get("a/b/hello.txt")?.header("range", "bytes=12-").send().await?;
    ensure!(code(ok(behind, 416).await?).await? == "range_not_satisfiable");

    put("a/two")?.body("2").send().await?.error_for_status()?;
    let program = request(&api, Method::PUT, files, &[("path", "a/tool"), ("executable", "true")])?.body("#!/bin/sh\n");
    program.send().await?.error_for_status()?;
    let list = request(&api, Method::GET, "desk/files/list", &[("path", "a"), ("limit", "2")])?.send().await?;
    let list: Value = ok(list, 200).await?.json().await?;
    let names = |list: &Value| -> Vec<String> {
        let entries = list["entries"].as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|entry| format!("{}:{}", entry["name"].as_str().unwrap_or_default(), entry["kind"]))
            .collect()
    };
    ensure!(names(&list) == ["b:\"directory\"", "tool:\"file\""] && list["next_after"] == "tool", "{list}");
    let rest = request(&api, Method::GET, "desk/files/list", &[("path", "a"), ("after", "tool")])?.send().await?;
    let rest: Value = ok(rest, 200).await?.json().await?;
    ensure!(names(&rest) == ["two:\"file\""] && rest.get("next_after").is_none(), "{rest}");

    let delete = |query: &[(&str, &str)]| request(&api, Method::DELETE, files, query);
    ensure!(code(ok(delete(&[("path", "a")])?.send().await?, 409).await?).await? == "directory_not_empty");
    ok(delete(&[("path", "a"), ("recursive", "true")])?.send().await?, 204).await?;
    ensure!(!at.join("a").exists());
    ensure!(code(ok(get("a/two")?.send().await?, 404).await?).await? == "file_not_found");
    ensure!(code(ok(get(".")?.send().await?, 409).await?).await? == "wrong_file_kind");
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leads_out_of_the_workspace_and_nobody_else_leads_in() -> Result<()> {
    let (cluster, api, view) = desk().await?;
    let at = workspace(&view)?;
    let outside = at.parent().context("no parent")?.join("outside");
    std::fs::write(&outside, "secret")?;
    std::os::unix::fs::symlink(&outside, at.join("absolute"))?;
    std::os::unix::fs::symlink("../outside", at.join("relative"))?;
    std::os::unix::fs::symlink("..", at.join("up"))?;
    for path in ["../outside", "absolute", "relative", "up/outside", "/etc/passwd", "a/../../outside"] {
        let read = request(&api, Method::GET, "desk/files", &[("path", path)])?.send().await?;
        ensure!(code(ok(read, 403).await?).await? == "outside_workspace", "{path}");
    }
    for path in ["../new", "up/new", "/etc/new"] {
        let write = request(&api, Method::PUT, "desk/files", &[("path", path)])?.body("x").send().await?;
        ensure!(code(ok(write, 403).await?).await? == "outside_workspace", "{path}");
        let delete = request(&api, Method::DELETE, "desk/files", &[("path", path)])?.send().await?;
        ensure!(code(ok(delete, 403).await?).await? == "outside_workspace", "{path}");
    }
    ensure!(std::fs::read(&outside)? == b"secret");
    std::fs::remove_file(&outside)?;

    // Whoever may see the desktop, or is the session itself, does not get its files; a stopped session has none to give.
    let link = api.link("desk").await?;
    let desktop = link.url.split_once("#token=").context("no token in the link")?.1.to_owned();
    let theirs = api.with_token(&desktop);
    for (method, path) in [
        (Method::GET, "desk/files?path=x"),
        (Method::PUT, "desk/files?path=x"),
        (Method::DELETE, "desk/files?path=x"),
        (Method::GET, "desk/files/list"),
        (Method::GET, "desk/terminals"),
        (Method::DELETE, "desk/terminals/x"),
        (Method::POST, "desk/exec"),
    ] {
        let answer = theirs.send(method, &format!("/api/v1/sessions/{path}"), None).await?;
        answer.problem(403, "forbidden")?;
    }
    for path in ["desk/exec", "desk/terminals/x"] {
        let refused = theirs.socket(&format!("/api/v1/sessions/{path}")).await;
        ensure!(helix_tests::http::refusal(refused)? == 403, "{path}");
    }
    api.stop("desk").await?;
    api.wait_phase("desk", helix_protocol::session::SessionPhase::Stopped, secs(60)).await?;
    api.get("/api/v1/sessions/desk/files?path=x").await?.problem(409, "session_not_ready")?;
    api.post("/api/v1/sessions/desk/exec", &json!({"command": "true"})).await?.problem(409, "session_not_ready")?;
    cluster.shutdown().await
}

/// A body of so many pieces; after them it breaks off, or ends.
fn pieces(count: u64, breaks: bool) -> Body {
    let pieces = (0..count).map(|number| Ok(megabyte(number)));
    let end = breaks.then(|| Err(std::io::Error::other("the client dies")));
    Body::wrap_stream(futures::stream::iter(pieces.chain(end)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_is_gone_on_with_and_replaces_nothing_before() -> Result<()> {
    let (cluster, api, view) = desk().await?;
    let at = workspace(&view)?;
    std::fs::write(at.join("big"), "old")?;
    let put = |more: &[(&str, &str)]| {
        let query = [&[("path", "big"), ("upload", "mine")][..], more].concat();
        request(&api, Method::PUT, "desk/files", &query)
    };
    let broken = put(&[])?.header("content-length", 8 << 20).body(pieces(3, true)).send().await;
    ensure!(broken.is_err(), "{broken:?}");
    let received = async || -> Result<u64> {
        let state = request(&api, Method::GET, "desk/files/upload", &[("path", "big"), ("upload", "mine")])?;
        let state: Value = ok(state.send().await?, 200).await?.json().await?;
        state["received"].as_u64().context("no number")
    };
    eventually("a part has come", secs(20), || async {
        ensure!(received().await? > 0);
        Ok(())
    })
    .await?;
    ensure!(std::fs::read(at.join("big"))? == b"old", "half a file took its place");
    ensure!(code(ok(put(&[("offset", "1")])?.body("x").send().await?, 409).await?).await? == "upload_mismatch");

    let whole: Vec<u8> = (0..8).flat_map(megabyte).collect();
    // What was on its way may still come in between: whoever goes on asks again then.
    eventually("the rest is taken", secs(20), || async {
        let stands = received().await?;
        let rest = whole[usize::try_from(stands)?..].to_vec();
        ok(put(&[("offset", &stands.to_string())])?.body(rest).send().await?, 200).await?;
        Ok(())
    })
    .await?;
    ensure!(std::fs::read(at.join("big"))? == whole, "another file than was sent");
    ensure!(received().await? == 0);

    // Without a name there is nothing to go on with, and nothing is left.
    let query = [("path", "once")];
    let put = request(&api, Method::PUT, "desk/files", &query)?.header("content-length", 8 << 20);
    ensure!(put.body(pieces(2, true)).send().await.is_err());
    eventually("its part is gone", secs(20), || async {
        let left = std::fs::read_dir(at.join(".helix-parts"))?.count();
        ensure!(left == 1, "{left} files");
        Ok(())
    })
    .await?;
    ensure!(!at.join("once").exists());
    cluster.shutdown().await
}

/// Through every process, there and back.
async fn there_and_back(megabytes: u64) -> Result<()> {
    let (cluster, api, view) = desk().await?;
    let (server, agentd) =
        (cluster.servers[0].pid().context("no server")?, cluster.runners[0].pid().context("no agentd")?);
    let write = request(&api, Method::PUT, "desk/files", &[("path", "small")])?.body("warm").send().await?;
    ok(write, 200).await?;
    let tools = tools_of(&view)?;
    let processes = [("server", server), ("agentd", agentd), ("tools", tools)];
    let before = processes.map(|(_, pid)| resident_kib(pid).unwrap_or(0));
    let (over, mut is_over) = tokio::sync::watch::channel(());
    let watched = tokio::spawn(async move {
        let mut most = [0; 3];
        loop {
            for (most, (_, pid)) in most.iter_mut().zip(processes) {
                *most = resident_kib(pid).unwrap_or(0).max(*most);
            }
            if tokio::time::timeout(std::time::Duration::from_millis(20), is_over.changed()).await.is_ok() {
                return most;
            }
        }
    });
    let put = request(&api, Method::PUT, "desk/files", &[("path", "big")])?;
    let put = put.header("content-length", megabytes << 20).body(pieces(megabytes, false));
    ok(put.send().await?, 200).await?;
    let mut read = ok(request(&api, Method::GET, "desk/files", &[("path", "big")])?.send().await?, 200).await?;
    let (mut number, mut held) = (0, Vec::new());
    while let Some(bytes) = read.chunk().await? {
        held.extend_from_slice(&bytes);
        while held.len() >= 1 << 20 {
            ensure!(held[..1 << 20] == megabyte(number), "megabyte {number} is another one");
            held.drain(..1 << 20);
            number += 1;
        }
    }
    ensure!(number == megabytes && held.is_empty(), "{number} megabytes came");
    drop(over);
    let most = watched.await?;
    for (((name, _), before), most) in processes.iter().zip(before).zip(most) {
        ensure!(most > 0 && most < before + 24 * 1024, "{name} grew from {before} to {most} KiB");
    }
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_through_in_constant_memory() -> Result<()> {
    there_and_back(200).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a gigabyte there and back: make soak"]
async fn a_gigabyte_goes_through_in_constant_memory() -> Result<()> {
    there_and_back(1024).await
}
