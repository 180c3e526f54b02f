//! Pure: which requests are refused, and why.

use std::collections::BTreeMap;

use helix_protocol::api::CreateSession;
use helix_protocol::ids::{PoolName, hex};
use helix_protocol::recording::RecordingChoice;
use helix_protocol::resources::{Reserve, Resources};
use helix_protocol::session::{MAX_INPUT_CHARS, MAX_PROJECT_PATH_CHARS, Project, SessionSpec};
use helix_protocol::{ErrorCode, RunnerId, SessionId, SpecTaskId};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::secrets;

const MAX_GIT_CHARS: usize = 2048;
const MAX_ENV_BYTES: usize = 64 * 1024;
/// Input, environment and labels as they are stored: with all else that a record holds, but for secrets, it stays below
/// 256 KiB.
const MAX_STORED_BYTES: usize = 224 * 1024;
const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY_CHARS: usize = 63;
const MAX_LABEL_VALUE_CHARS: usize = 256;

/// A request that may become a session.
pub struct Accepted {
    /// The id it asked for.
    pub id: Option<SessionId>,
    /// What shall run.
    pub spec: SessionSpec,
    /// It says nothing of a recording.
    pub leaves_recording: bool,
    /// Pool it asked for.
    pub pool: Option<PoolName>,
    /// The one runner that it may run on.
    pub on_runner: Option<RunnerId>,
    /// Words for filters.
    pub labels: BTreeMap<String, String>,
    /// Secrets that it asked for.
    pub secrets: secrets::Asked,
    /// Spec task that it is for.
    pub spec_task: Option<SpecTaskId>,
    /// SHA-256 of all but the id, the secrets and the spec task.
    pub request_hash: String,
}

/// Neither environment nor secrets.
impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepted").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Checks a request; names the field that is wrong.
pub fn accept(request: CreateSession) -> Result<Accepted> {
    let CreateSession {
        id,
        kind,
        project,
        project_path,
        input,
        geometry,
        display_server,
        image,
        pool,
        runner: on_runner,
        labels,
        env,
        resources,
        reserve,
        network,
        on_lost,
        preemptible,
        recording,
        secrets,
        spec_task,
        idle_timeout,
        lifetime,
    } = request;
    let project = project.map(Project::from);
    check_input(input.as_deref())?;
    if let Some(path) = &project_path {
        check_project_path(path)?;
    }
    if let Some(project) = &project {
        check_project(project)?;
    }
    check_env(&env)?;
    secrets::check_asked(&secrets)?;
    if let Some(name) = secrets.keys().find(|name| env.contains_key(*name)) {
        return invalid(format!("{name} is in env and in secrets; give it once"));
    }
    check_labels(&labels)?;
    check_resources(&resources, &reserve)?;
    let recorded = recording.and_then(RecordingChoice::options);
    let spec = SessionSpec {
        kind,
        project,
        project_path,
        input,
        geometry,
        display_server,
        image,
        env,
        resources,
        reserve,
        network,
        on_lost,
        preemptible,
        recording: recorded,
        direct: None,
        idle_timeout,
        lifetime,
    };
    check_stored_size(&spec, &labels)?;
    let request_hash = request_hash(&spec, pool.as_ref(), on_runner.as_ref(), &labels)?;
    let leaves_recording = recording.is_none();
    Ok(Accepted { id, spec, leaves_recording, pool, on_runner, labels, secrets, spec_task, request_hash })
}

/// The same of the whole request. One without secrets and spec task has the hash that it always had.
pub fn joint_hash(request_hash: String, secrets_mark: Option<&str>, spec_task: Option<&SpecTaskId>) -> String {
    if secrets_mark.is_none() && spec_task.is_none() {
        return request_hash;
    }
    let [secrets, task] = [secrets_mark, spec_task.map(SpecTaskId::as_str)].map(Option::unwrap_or_default);
    hex(&Sha256::digest(format!("{request_hash}\0{secrets}\0{task}")))
}

/// SHA-256 of what makes two requests the same. One that names no runner has the hash that it always had.
pub fn request_hash(
    spec: &SessionSpec,
    pool: Option<&PoolName>,
    on_runner: Option<&RunnerId>,
    labels: &BTreeMap<String, String>,
) -> Result<String> {
    let text = on_runner
        .map_or_else(
            || serde_json::to_vec(&(spec, pool, labels)),
            |runner| serde_json::to_vec(&(spec, pool, labels, runner)),
        )
        .map_err(|err| Error::new(ErrorCode::Internal, "cannot encode the request").because(err))?;
    Ok(hex(&Sha256::digest(text)))
}

fn check_input(input: Option<&str>) -> Result<()> {
    let chars = input.map_or(0, |input| input.chars().count());
    if chars > MAX_INPUT_CHARS {
        return Err(Error::new(
            ErrorCode::InvalidInput,
            format!("input has {chars} characters, at most {MAX_INPUT_CHARS} are taken; put the rest into the project"),
        ));
    }
    Ok(())
}

/// A directory inside the workspace.
pub fn check_project_path(path: &str) -> Result<()> {
    let chars = path.chars().count();
    if chars > MAX_PROJECT_PATH_CHARS {
        return invalid(format!("project_path has {chars} characters, at most {MAX_PROJECT_PATH_CHARS} are taken"));
    }
    if path.starts_with('/') || path.split('/').any(|part| part == "..") || path.chars().any(char::is_control) {
        return invalid("project_path must be a path inside the workspace, without a leading / and without ..");
    }
    Ok(())
}

fn check_project(project: &Project) -> Result<()> {
    let git = &project.git;
    // A leading dash would be an option to git.
    if git.is_empty()
        || git.chars().count() > MAX_GIT_CHARS
        || git.starts_with('-')
        || git.chars().any(char::is_control)
    {
        return invalid("project is not a git URL or path; write for example https://example.org/project.git");
    }
    if holds_credentials(git) {
        return invalid(
            "project holds credentials, which every user of the runner could read in its process list; give the URL \
             without them and let git on the runner have them (a credential helper, or an SSH key)",
        );
    }
    let bad_branch = |branch: &String| {
        branch.is_empty()
            || branch.len() > 255
            || branch.starts_with('-')
            || branch.chars().any(|c| c.is_control() || c == ' ')
    };
    if project.branch.as_ref().is_some_and(bad_branch) {
        return invalid("project.branch is not the name of a branch or tag");
    }
    Ok(())
}

/// `https://TOKEN@host/…` and `scheme://user:password@host/…`. A user name alone is no secret to SSH.
fn holds_credentials(git: &str) -> bool {
    let Some((scheme, rest)) = git.split_once("://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let Some((userinfo, _)) = authority.rsplit_once('@') else { return false };
    userinfo.contains(':') || scheme.to_ascii_lowercase().starts_with("http")
}

/// Names that a shell can carry, values without NUL, not too much of both.
pub fn check_env(env: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in env {
        let mut chars = name.chars();
        let head = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !head || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let name: String = name.chars().take(80).collect();
            return invalid(format!("env name {name:?} is not valid: use letters, digits and _, no digit first"));
        }
        if value.contains('\0') {
            return invalid(format!("env {name} has a NUL character"));
        }
    }
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_ENV_BYTES {
        return invalid(format!(
            "env has {bytes} bytes, at most {MAX_ENV_BYTES} are taken; put large values into files"
        ));
    }
    Ok(())
}

/// What is within each limit may still be too much together: characters have up to four bytes, or six as JSON.
pub fn check_stored_size(spec: &SessionSpec, labels: &BTreeMap<String, String>) -> Result<()> {
    let parts =
        [("input", stored_size(&spec.input)?), ("env", stored_size(&spec.env)?), ("labels", stored_size(labels)?)];
    let bytes: usize = parts.iter().map(|(_, bytes)| bytes).sum();
    if bytes <= MAX_STORED_BYTES {
        return Ok(());
    }
    let [input, env, labels] = parts.map(|(name, bytes)| format!("{name} {bytes}"));
    invalid(format!(
        "input, env and labels have {bytes} bytes together ({input}, {env}, {labels}), at most {MAX_STORED_BYTES} are \
         stored; put the rest into files of the project"
    ))
}

fn stored_size(part: &impl serde::Serialize) -> Result<usize> {
    let text = serde_json::to_vec(part)
        .map_err(|err| Error::new(ErrorCode::Internal, "cannot encode the request").because(err))?;
    Ok(text.len())
}

/// Limits that a desktop runs in, and no more kept free for it than it may use.
pub fn check_resources(resources: &Resources, reserve: &Reserve) -> Result<()> {
    if let Some(fault) = resources.fault() {
        return invalid(format!("resources.{fault}; change it, or leave it out for the default of kind and runner"));
    }
    check_reserve("cpu", reserve.cpu, resources.cpu)?;
    check_reserve("memory", reserve.memory, resources.memory)
}

fn check_reserve<T: Ord + std::fmt::Display>(name: &str, reserve: Option<T>, limit: Option<T>) -> Result<()> {
    match reserve.zip(limit) {
        Some((reserve, limit)) if reserve > limit => invalid(format!(
            "reserve.{name} {reserve} is above resources.{name} {limit}, which the session can never use; reserve \
             less, or raise the limit"
        )),
        _ => Ok(()),
    }
}

/// Labels of a session, or of a runner.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > MAX_LABELS {
        return invalid(format!("there are {} labels, at most {MAX_LABELS} are taken", labels.len()));
    }
    for (key, value) in labels {
        let good_key = (1..=MAX_LABEL_KEY_CHARS).contains(&key.len())
            && key.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c));
        if !good_key {
            let key: String = key.chars().take(80).collect();
            return invalid(format!(
                "label {key:?} is not valid: use 1 to {MAX_LABEL_KEY_CHARS} characters of A-Z a-z 0-9 . _ / -"
            ));
        }
        if value.chars().count() > MAX_LABEL_VALUE_CHARS || value.chars().any(char::is_control) {
            return invalid(format!(
                "label {key} has a value above {MAX_LABEL_VALUE_CHARS} characters or of several lines"
            ));
        }
    }
    Ok(())
}

fn invalid<T>(detail: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorCode::InvalidRequest, detail))
}

#[cfg(test)]
mod tests {
    use helix_protocol::KindName;
    use helix_protocol::api::ProjectSource;

    use super::*;

    fn command(input: &str) -> CreateSession {
        let kind = KindName::parse("command").expect("valid kind");
        CreateSession { kind: Some(kind), input: Some(input.to_owned()), ..CreateSession::default() }
    }

    fn code(request: CreateSession) -> Option<ErrorCode> {
        accept(request).err().map(|err| err.code)
    }

    #[test]
    fn input_has_a_limit_and_may_be_absent() {
        assert_eq!(code(command(&"ä".repeat(50_000))), None);
        assert_eq!(code(command(&"ä".repeat(50_001))), Some(ErrorCode::InvalidInput));
        let kind = KindName::parse("command").expect("valid kind");
        assert_eq!(code(CreateSession { kind: Some(kind), ..CreateSession::default() }), None);
        assert_eq!(code(CreateSession::default()), None);
    }

    #[test]
    fn a_record_has_a_limit_although_each_part_is_within_its_own() {
        let env = |chars| BTreeMap::from([("A".to_owned(), "x".repeat(chars))]);
        // Four bytes a character: the input alone is taken, and with an environment it is too much.
        let long = command(&"🦀".repeat(50_000));
        assert_eq!(code(long.clone()), None);
        assert_eq!(code(CreateSession { env: env(20_000), ..long.clone() }), None);
        let error = accept(CreateSession { env: env(60_000), ..long }).expect_err("too much together");
        assert_eq!(error.code, ErrorCode::InvalidRequest);
        insta::assert_snapshot!(error.detail, @"input, env and labels have 260012 bytes together (input 200002, env 60008, labels 2), at most 229376 are stored; put the rest into files of the project");
        // Six as JSON.
        assert_eq!(code(command(&"\u{1}".repeat(50_000))), Some(ErrorCode::InvalidRequest));
        // The largest that is taken, with the longest of all else, is a record below 256 KiB.
        let largest = CreateSession {
            project: Some(ProjectSource::Long(Project {
                git: "🦀".repeat(MAX_GIT_CHARS),
                branch: Some("b".repeat(255)),
            })),
            project_path: Some("🦀".repeat(MAX_PROJECT_PATH_CHARS)),
            env: env(28_000),
            ..command(&"🦀".repeat(50_000))
        };
        let bytes = serde_json::to_vec(&accept(largest).expect("taken").spec).expect("encoded").len();
        assert!((230_000..250_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn what_could_leave_the_workspace_or_become_an_option_is_refused() {
        for path in ["../x", "a/../b", "/etc", "a\nb", &"x".repeat(256)] {
            let request = CreateSession { project_path: Some(path.to_owned()), ..CreateSession::default() };
            assert_eq!(code(request), Some(ErrorCode::InvalidRequest), "{path}");
        }
        for git in ["", "--upload-pack=x", "a\0b"] {
            let project = Some(ProjectSource::Short(git.to_owned()));
            let request = CreateSession { project, ..CreateSession::default() };
            assert_eq!(code(request), Some(ErrorCode::InvalidRequest), "{git}");
        }
        for name in ["", "1A", "A-B", "A=B", "Ä"] {
            let env = [(name.to_owned(), String::new())].into();
            assert_eq!(
                code(CreateSession { env, ..CreateSession::default() }),
                Some(ErrorCode::InvalidRequest),
                "{name}"
            );
        }
    }

    #[test]
    fn the_same_request_has_the_same_hash_whatever_its_spelling() {
        let short = CreateSession { project: Some(ProjectSource::Short("x".to_owned())), ..CreateSession::default() };
        let long = Project { git: "x".to_owned(), branch: None };
        let long = CreateSession { project: Some(ProjectSource::Long(long)), ..CreateSession::default() };
        let id = Some(SessionId::parse("a").expect("valid id"));
        let with_id = CreateSession { id, ..short.clone() };
        let hash = |request| accept(request).map(|accepted| accepted.request_hash).ok();
        assert_eq!(hash(short.clone()), hash(long));
        assert_eq!(hash(short.clone()), hash(with_id));
        assert_ne!(hash(short), hash(command("true")));
    }

    #[test]
    fn limits_that_no_desktop_runs_in_are_named_with_the_fix() {
        let detail = |json: &str| accept(serde_json::from_str(json).expect("a request")).expect_err(json).detail;
        let details = [
            detail(r#"{"resources": {"memory": "1MiB"}}"#),
            detail(r#"{"resources": {"tasks": 5}}"#),
            detail(r#"{"resources": {"io_weight": 0}}"#),
            detail(r#"{"resources": {"memory": "2GiB"}, "reserve": {"memory": "4GiB"}}"#),
            detail(r#"{"resources": {"cpu": 1}, "reserve": {"cpu": 1.5}}"#),
        ];
        insta::assert_snapshot!(details.join("\n"), @"
        resources.memory 1MiB is below 64MiB, which a desktop needs; change it, or leave it out for the default of kind and runner
        resources.tasks 5 is below 32, which a desktop needs; change it, or leave it out for the default of kind and runner
        resources.io_weight 0 is not from 1 to 10000; change it, or leave it out for the default of kind and runner
        reserve.memory 4GiB is above resources.memory 2GiB, which the session can never use; reserve less, or raise the limit
        reserve.cpu 1.5 is above resources.cpu 1, which the session can never use; reserve less, or raise the limit
        ");
        for good in [r#"{"reserve": {"memory": "4GiB"}}"#, r#"{"resources": {"cpu": 1}, "reserve": {"cpu": 1}}"#] {
            assert_eq!(code(serde_json::from_str(good).expect("a request")), None, "{good}");
        }
    }

    #[test]
    fn limits_reserve_network_and_what_becomes_of_it_are_part_of_the_request() {
        let hash = |json: &str| accept(serde_json::from_str(json).expect("a request")).expect(json).request_hash;
        let requests = [
            "{}",
            r#"{"resources": {"memory": "4GiB"}}"#,
            r#"{"reserve": {"memory": "4GiB"}}"#,
            r#"{"network": "none"}"#,
            r#"{"on_lost": "restart"}"#,
        ];
        let hashes: std::collections::BTreeSet<_> = requests.iter().map(|request| hash(request)).collect();
        assert_eq!(hashes.len(), requests.len());
        assert_eq!(hash(requests[1]), hash(r#"{"resources": {"memory": 4294967296}}"#), "another spelling");
        let accepted = accept(serde_json::from_str(requests[3]).expect("a request")).expect("accepted");
        assert_eq!(accepted.spec.network, Some(helix_protocol::resources::Network::None));
    }

    #[test]
    fn credentials_in_a_project_are_refused() {
        for bad in ["https://token@h/p.git", "https://u:p@h/p", "HTTP://x@h/", "ssh://u:p@h/p"] {
            assert!(holds_credentials(bad), "{bad}");
        }
        for good in ["https://h/p@v1", "ssh://git@h/p", "git@h:p.git", "/srv/a@b", "https://h/p?q=a@b"] {
            assert!(!holds_credentials(good), "{good}");
        }
    }
}
