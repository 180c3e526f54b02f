//! From a kind and a session to the app unit: pure.

use std::collections::BTreeMap;
use std::path::Path;

use helix_protocol::SessionId;
use helix_protocol::session::Geometry;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, context};

use super::file::KindFile;
use crate::supervisor::{SessionFile, SessionPaths};

/// What a template may use. Strict: a name that is not here is an error, not an empty text.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// `session`.
    pub session: &'a SessionId,
    /// `root`, `home`, `tmp`, `runtime`, `workspace`.
    pub paths: &'a SessionPaths,
    /// `project`: where the agent starts, the workspace or a directory in it.
    pub project: &'a Path,
    /// `agentd`: the agentd program.
    pub agentd: &'a Path,
    /// `input`: the session's input, empty where there is none.
    pub input: &'a str,
    /// `width`, `height`.
    pub geometry: Geometry,
    /// `shell`: the user's shell.
    pub shell: &'a str,
    /// `zed`: the Zed editor's program.
    pub zed: &'a str,
    /// `vulkan_icd`: the file of the Vulkan driver, empty where there is none.
    pub vulkan_icd: Option<&'a Path>,
    /// `sync_url`, `api_url`: where the agent reaches the server, without and with a scheme. Its token is in its
    /// environment alone: command lines can be read by everybody.
    pub forward_port: u16,
    /// `env`: what the session's spec adds to the environment.
    pub env: &'a BTreeMap<String, String>,
    /// `is_root`: whether it runs as root.
    pub is_root: bool,
}

/// What the app unit gets from its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Additions to the session's environment; a variable whose template comes out empty is not among them.
    pub env: BTreeMap<String, String>,
    /// Files to write before it starts, parents included.
    pub files: Vec<SessionFile>,
}

/// A template that cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[error("template of {place} cannot be rendered: {reason}")]
pub struct RenderError {
    /// `command`, `environment.NAME` or `files PATH`.
    pub place: String,
    /// What is wrong, for people.
    pub reason: String,
}

/// Where the session's agent finds the server: `ZED_HELIX_URL`, which has no scheme.
pub fn sync_url(forward_port: u16) -> String {
    format!("127.0.0.1:{forward_port}")
}

/// Filter: the JSON object that a text is, as one line, for settings that a session writes whole; `name` is where it wrote it. The
/// text is not told: it may hold what is nobody's business.
fn json_object(text: &str, name: &str) -> Result<String, Error> {
    let fault = |why: &str| Error::new(ErrorKind::InvalidOperation, format!("{name} is no JSON object{why}"));
    match serde_json::from_str(text) {
        Ok(object @ serde_json::Value::Object(_)) => Ok(object.to_string()),
        Ok(_) => Err(fault("")),
        Err(error) => Err(fault(&format!(": {error}"))),
    }
}

/// Renders every template of a kind.
pub fn render(kind: &KindFile, context: &Context<'_>) -> Result<Rendered, RenderError> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_auto_escape_callback(|_| AutoEscape::None);
    engine.add_filter("json_object", json_object);
    // A file's last newline belongs to it. Only unusual delimiters could be refused here.
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        engine.set_syntax(syntax);
    }
    let Context { session, paths, project, agentd, input, geometry, shell, zed, .. } = *context;
    let sync_url = sync_url(context.forward_port);
    let values = context! {
        session => session.as_str(),
        root => paths.root.to_string_lossy(),
        home => paths.home.to_string_lossy(),
        tmp => paths.tmp.to_string_lossy(),
        runtime => paths.runtime.to_string_lossy(),
        workspace => paths.workspace.to_string_lossy(),
        project => project.to_string_lossy(),
        agentd => agentd.to_string_lossy(),
        input,
        width => geometry.width,
        height => geometry.height,
        shell,
        zed,
        vulkan_icd => context.vulkan_icd.map(Path::to_string_lossy).unwrap_or_default(),
        api_url => format!("http://{sync_url}"),
        sync_url,
        env => context.env,
        is_root => context.is_root,
    };
    let text = |place: String, template: &str| {
        // Name and line of the error's own text are of an unnamed template; `place` says which.
        engine.render_str(template, &values).map_err(|error| RenderError {
            place,
            reason: error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned),
        })
    };

    let argv = kind.command.iter().map(|part| text("command".to_owned(), part)).collect::<Result<_, _>>()?;
    let env = kind
        .environment
        .iter()
        .map(|(name, value)| Ok((name.clone(), text(format!("environment.{name}"), value)?)))
        .filter(|variable| !matches!(variable, Ok((_, value)) if value.is_empty()))
        .collect::<Result<_, RenderError>>()?;
    let files = kind
        .files
        .iter()
        .map(|file| {
            let body = text(format!("files {}", file.path.display()), &file.content)?;
            Ok(SessionFile { path: file.path.clone(), mode: file.mode, content: body.into_bytes() })
        })
        .collect::<Result<_, RenderError>>()?;
    Ok(Rendered { argv, env, files })
}
