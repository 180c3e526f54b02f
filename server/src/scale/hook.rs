//! Makes one call: runs the program, or posts to the webhook. Bounded in time and in what is kept of its words; nothing
//! of it is left running.

use std::process::Stdio;
use std::time::Duration;

use helix_protocol::scale::{KEY_HEADER, SIGNATURE_HEADER, ScaleCall};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustix::process::{Pid, Signal, kill_process_group};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::Hook;

/// Bytes of a program's words that are logged, of each stream.
const LOGGED: u64 = 16 * 1024;
/// Characters of its words that become part of an error.
const TOLD: usize = 300;
/// What a program finds: nothing of the server's own environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// For a program's last words to come once it has ended: who else holds its output is not waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What a program started, killed when this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // All of it has ended already, most often.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Makes the call; the error is for people.
pub async fn call(hook: &Hook, call: &ScaleCall, timeout: Duration) -> Result<(), String> {
    let body = serde_json::to_vec(call).map_err(|error| format!("the call cannot be encoded: {error}"))?;
    let made = async {
        match hook {
            Hook::Command(argv) => run(argv, &call.key, &body).await,
            Hook::Webhook { url, secret } => post(url, secret, &call.key, body).await,
        }
    };
    match tokio::time::timeout(timeout, made).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("it did not end within {timeout:?} and was given up")),
    }
}

async fn run(argv: &[String], key: &str, body: &[u8]) -> Result<(), String> {
    let [program, rest @ ..] = argv else { return Err("no program is named".to_owned()) };
    let mut command = Command::new(program);
    command.args(rest).env_clear().env("PATH", PATH).env("HELIX_SCALE_KEY", key).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
    let _group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let (input, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut input) = input {
            // One that does not read what it is told may know better.
            let _ = input.write_all(body).await;
        }
    };
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let status = {
        let words = async {
            tokio::join!(write, keep(out, &mut said), keep(err, &mut complained));
            std::future::pending::<()>().await;
        };
        let mut words = std::pin::pin!(words);
        let status = tokio::select! {
            status = child.wait() => status,
            () = &mut words => unreachable!("it is pending for ever"),
        };
        let _ = tokio::time::timeout(LAST_WORDS, words).await;
        status.map_err(|error| format!("{program} cannot be waited for: {error}"))?
    };
    let (said, complained) = (String::from_utf8_lossy(&said), String::from_utf8_lossy(&complained));
    for line in said.lines().chain(complained.lines()) {
        tracing::info!(key, "scale hook: {line}");
    }
    if status.success() {
        return Ok(());
    }
    let last = complained.lines().chain(said.lines()).next_back().unwrap_or_default();
    let last: String = last.chars().take(TOLD).collect();
    Err(format!("{program} ended with {status}{}", if last.is_empty() { String::new() } else { format!(": {last}") }))
}

/// The beginning is kept, the rest is read and forgotten, so that nobody waits for it.
async fn keep(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    if (&mut stream).take(LOGGED).read_to_end(kept).await.is_ok() {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
}

async fn post(url: &str, secret: &str, key: &str, body: Vec<u8>) -> Result<(), String> {
    let signature = sign(secret, &body)?;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build();
    let client = client.map_err(|error| format!("no HTTP client can be made: {error}"))?;
    let request = client
        .post(url)
        .header("content-type", "application/json")
        .header(KEY_HEADER, key)
        .header(SIGNATURE_HEADER, signature)
        .body(body);
    let answer = request.send().await.map_err(|error| {
        let mut why = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            why = format!("{why}: {cause}");
            source = cause.source();
        }
        format!("{url} cannot be reached: {}", why.chars().take(TOLD).collect::<String>())
    })?;
    if answer.status().is_success() {
        return Ok(());
    }
    Err(format!("{url} answered {}", answer.status()))
}

fn sign(secret: &str, body: &[u8]) -> Result<String, String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|error| error.to_string())?;
    mac.update(body);
    Ok(format!("sha256={}", helix_protocol::ids::hex(&mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use helix_protocol::scale::Wanted;
    use jiff::Timestamp;

    use super::*;

    fn sample() -> ScaleCall {
        ScaleCall {
            version: 1,
            key: "scale-7".to_owned(),
            number: 7,
            repeats: 0,
            server: "a".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            wanted: Wanted::default(),
        }
    }

    async fn shell(script: &str, timeout: Duration) -> Result<(), String> {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        call(&Hook::Command(argv), &sample(), timeout).await
    }

    #[tokio::test]
    async fn a_program_is_told_on_its_input_and_believed_by_its_exit_status() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().display();
        let patience = Duration::from_secs(30);
        let script = format!("cat > {place}/body; echo \"$HELIX_SCALE_KEY $HOME\" > {place}/key");
        assert_eq!(shell(&script, patience).await, Ok(()));
        let body = std::fs::read_to_string(folder.path().join("body")).expect("written");
        assert_eq!(serde_json::from_str::<ScaleCall>(&body).expect("a call"), sample());
        assert_eq!(std::fs::read_to_string(folder.path().join("key")).expect("written"), "scale-7 \n");
        let failed = shell("echo no credit >&2; exit 3", patience).await.expect_err("it fails");
        assert!(failed.ends_with("exit status: 3: no credit"), "{failed}");
        // One that says more than anybody reads, and does not listen.
        assert_eq!(shell("exec 0<&-; yes | head -c 3000000", patience).await, Ok(()));
        let gone = call(&Hook::Command(vec!["/nowhere/hook".to_owned()]), &sample(), patience).await;
        assert!(gone.expect_err("missing").starts_with("/nowhere/hook cannot be started"));
    }

    #[tokio::test]
    async fn one_that_hangs_is_given_up_with_all_that_it_started() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let began = Instant::now();
        let hangs = shell(&script, Duration::from_secs(2)).await.expect_err("it hangs");
        assert!(hangs.contains("did not end within 2s") && began.elapsed() < Duration::from_secs(20), "{hangs}");
        let pid = std::fs::read_to_string(&file).expect("written").trim().parse().expect("a pid");
        let pid = Pid::from_raw(pid).expect("a pid");
        let deadline = Instant::now() + Duration::from_secs(20);
        // Its parent is gone: init, or whoever reaps for it, takes the zombie.
        while std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
            .is_ok_and(|stat| !stat.contains(") Z "))
        {
            assert!(Instant::now() < deadline, "its child is left");
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn the_signature_is_hmac_sha256_of_the_body() {
        // RFC 4231, test case 2.
        let signed = sign("Jefe", b"what do ya want for nothing?").expect("signed");
        assert_eq!(signed, "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
