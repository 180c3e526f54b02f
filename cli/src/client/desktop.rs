//! A session's desktop: pictures, input, windows, clipboard, size.

use std::time::Duration;

use helix_protocol::SessionId;
use helix_protocol::desktop::{
    CALL_SECONDS, Clipboard, CursorView, DisplaySize, DisplayView, Input, InputDone, Wait, Waited, WindowAction,
    WindowList, WindowView,
};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Client, refusal, transport_error};
use crate::error::{CliError, Result};

/// Longer than the server waits for any desktop.
const DESKTOP_WITHIN: Duration = Duration::from_secs(CALL_SECONDS + 10);

/// A picture of a desktop.
#[derive(Debug, Clone, Serialize)]
pub struct PictureFile {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// The same while nothing changes.
    pub etag: String,
    /// The file.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

impl Client {
    /// `GET /sessions/{id}/screenshot`.
    pub async fn screenshot(&self, id: &SessionId, query: &[(&str, String)]) -> Result<PictureFile> {
        let what = "take a screenshot";
        let (head, bytes) = self.desktop(what, Method::GET, id, &["screenshot"], query, None::<&()>).await?;
        let text = |name: &str| head.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let side = |name: &str| text(name).parse().unwrap_or_default();
        Ok(PictureFile { width: side("x-helix-width"), height: side("x-helix-height"), etag: text("etag"), bytes })
    }

    /// `POST /sessions/{id}/input`.
    pub async fn input(&self, id: &SessionId, input: &Input) -> Result<InputDone> {
        self.on_desktop("drive the desktop", Method::POST, id, &["input"], Some(input)).await
    }

    /// `GET /sessions/{id}/windows`.
    pub async fn windows(&self, id: &SessionId) -> Result<WindowList> {
        self.on_desktop("list the windows", Method::GET, id, &["windows"], None::<&()>).await
    }

    /// `POST /sessions/{id}/windows/{window}/{action}`; None once it is closed.
    pub async fn act_on_window(&self, id: &SessionId, window: u32, action: WindowAction) -> Result<Option<WindowView>> {
        let (what, window) = (format!("{} the window", action.as_str()), window.to_string());
        let path = ["windows", &window, action.as_str()];
        let (_, bytes) = self.desktop(&what, Method::POST, id, &path, &[], None::<&()>).await?;
        if bytes.is_empty() { Ok(None) } else { decoded(&what, &bytes).map(Some) }
    }

    /// `GET /sessions/{id}/clipboard`.
    pub async fn clipboard(&self, id: &SessionId) -> Result<Clipboard> {
        self.on_desktop("read the clipboard", Method::GET, id, &["clipboard"], None::<&()>).await
    }

    /// `PUT /sessions/{id}/clipboard`.
    pub async fn set_clipboard(&self, id: &SessionId, clipboard: &Clipboard) -> Result<()> {
        let what = "set the clipboard";
        self.desktop(what, Method::PUT, id, &["clipboard"], &[], Some(clipboard)).await.map(|_| ())
    }

    /// `GET /sessions/{id}/display`.
    pub async fn display(&self, id: &SessionId) -> Result<DisplayView> {
        self.on_desktop("read the display's size", Method::GET, id, &["display"], None::<&()>).await
    }

    /// `PUT /sessions/{id}/display`.
    pub async fn set_display(&self, id: &SessionId, size: &DisplaySize) -> Result<DisplayView> {
        self.on_desktop("change the display's size", Method::PUT, id, &["display"], Some(size)).await
    }

    /// `GET /sessions/{id}/cursor`.
    pub async fn cursor(&self, id: &SessionId) -> Result<CursorView> {
        self.on_desktop("find the pointer", Method::GET, id, &["cursor"], None::<&()>).await
    }

    /// `POST /sessions/{id}/wait`.
    pub async fn wait_for_pixels(&self, id: &SessionId, wait: &Wait) -> Result<Waited> {
        self.on_desktop("wait for the desktop", Method::POST, id, &["wait"], Some(wait)).await
    }

    async fn on_desktop<B: Serialize, T: DeserializeOwned>(
        &self,
        what: &str,
        method: Method,
        id: &SessionId,
        path: &[&str],
        body: Option<&B>,
    ) -> Result<T> {
        let (_, bytes) = self.desktop(what, method, id, path, &[], body).await?;
        decoded(what, &bytes)
    }

    /// Head and body of an answer that is no refusal.
    async fn desktop<B: Serialize>(
        &self,
        what: &str,
        method: Method,
        id: &SessionId,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&B>,
    ) -> Result<(HeaderMap, Vec<u8>)> {
        let what = format!("cannot {what}");
        let path: Vec<&str> = ["sessions", id.as_str()].iter().chain(path).copied().collect();
        let (request, place) = self.request(method, &path, query);
        let mut request = request.timeout(DESKTOP_WITHIN);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| transport_error(&what, &place, &error))?;
        let (status, head) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.map_err(|error| transport_error(&what, &place, &error))?;
        if status.is_success() { Ok((head, bytes.into())) } else { Err(refusal(what, place, status, &bytes)) }
    }
}

fn decoded<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        CliError::failed(format!("cannot {what}"))
            .because(format!("the answer is not what this helixctl expects: {error}"))
            .next("check that the address is a Helix server of this version: helixctl version")
    })
}
