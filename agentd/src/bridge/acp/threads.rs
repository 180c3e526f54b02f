//! Threads are the agent's sessions: made, loaded, authenticated for, and set to a mode and a model.

use std::sync::Arc;

use agent_client_protocol::v1::schema::{
    AuthenticateRequest, LoadSessionRequest, NewSessionRequest, ResumeSessionRequest, SessionId,
};
use agent_client_protocol::{Error, ErrorCode, JsonRpcRequest};
use helix_protocol::thread::TokenUsage;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Acp;
use super::offer::{Choice, Offer};
use super::process::Live;
use super::rpc::RpcError;
use crate::bridge::agent::{News, Setting};
use crate::bridge::record::End;

/// Ways to authenticate that take a key from the environment, of agents that do not say so themselves: part of the way's
/// id, and the variable.
const KEYS: [(&str, &str); 8] = [
    ("gemini-api-key", "GEMINI_API_KEY"),
    ("vertex-ai", "GOOGLE_API_KEY"),
    ("codex-api-key", "CODEX_API_KEY"),
    ("openai", "OPENAI_API_KEY"),
    ("anthropic", "ANTHROPIC_API_KEY"),
    ("gateway", "ANTHROPIC_AUTH_TOKEN"),
    ("openrouter", "OPENROUTER_API_KEY"),
    ("api-key", "OPENAI_API_KEY"),
];

/// A way to authenticate. The schema has lost the variables that a way needs; agents tell them.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Way {
    id: String,
    #[serde(default)]
    vars: Option<Vec<Var>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Var {
    name: String,
    #[serde(default)]
    optional: bool,
}

impl Acp {
    /// Makes or loads a thread; answers its id.
    pub(super) async fn prepare(self: &Arc<Self>, thread: Option<String>) -> Result<String, End> {
        let again = |error| End::Failed { error: format!("the agent cannot be started again: {error}") };
        let live = self.live().await.map_err(again)?;
        let Some(thread) = thread else { return self.new_thread(&live).await };
        if !live.has(&thread) {
            let _one = live.load.lock().await;
            // It may have come meanwhile.
            if !live.has(&thread) {
                self.load(&live, &thread).await?;
            }
        }
        Ok(thread)
    }

    async fn new_thread(&self, live: &Live) -> Result<String, End> {
        let answer = self.ask(live, &NewSessionRequest::new(&self.options.project)).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(End::Failed { error: told(live, error, "the agent makes no session").await }),
        };
        let Some(thread) = answer.get("sessionId").and_then(Value::as_str).map(ToOwned::to_owned) else {
            return Err(End::Failed { error: "the agent made a session without an id".to_owned() });
        };
        live.got(&thread);
        self.set_up(live, &thread, &answer).await;
        Ok(thread)
    }

    async fn load(&self, live: &Live, thread: &str) -> Result<(), End> {
        let (id, project) = (SessionId::new(thread), &self.options.project);
        let can = live.facts.get().map(|facts| &facts.can);
        live.set_loading(thread, true);
        let answer = match can {
            Some(can) if can.session_capabilities.resume.is_some() => {
                self.ask(live, &ResumeSessionRequest::new(id, project)).await
            }
            Some(can) if can.load_session => self.ask(live, &LoadSessionRequest::new(id, project)).await,
            _ => Err(RpcError::Refused(Error::new(ErrorCode::METHOD_NOT_FOUND, NO_LOADING))),
        };
        live.set_loading(thread, false);
        let answer = match answer {
            Ok(answer) => answer,
            Err(RpcError::Refused(error)) if error.message == NO_LOADING => return Err(not_loaded(NO_LOADING)),
            Err(RpcError::Refused(error)) if error.code == ErrorCode::RESOURCE_NOT_FOUND => {
                return Err(not_loaded(&format!("Resource not found: {thread} ({})", error.message)));
            }
            Err(error) => return Err(not_loaded(&told(live, error, "the agent does not load it").await)),
        };
        self.set_up(live, thread, &answer).await;
        // Not before: whoever waits for it wants it in its mode.
        live.got(thread);
        Ok(())
    }

    /// Asks, and once more after authentication where that is wanted.
    async fn ask(&self, live: &Live, request: &impl JsonRpcRequest) -> Result<Value, RpcError> {
        let first = live.rpc.request(request).await;
        let Err(RpcError::Refused(mut error)) = first else { return first };
        if error.code != ErrorCode::AUTH_REQUIRED {
            return Err(RpcError::Refused(error));
        }
        let Some(way) = self.way_in(live) else {
            error.message += "; no key for it is in the environment: give it as a secret of the session";
            return Err(RpcError::Refused(error));
        };
        live.rpc.request::<_, Value>(&AuthenticateRequest::new(way)).await?;
        live.rpc.request(request).await
    }

    /// The way to authenticate that was asked for, or the first whose key is there.
    fn way_in(&self, live: &Live) -> Option<String> {
        if let Some(way) = &self.options.auth_method {
            return Some(way.clone());
        }
        let ways = &live.facts.get()?.ways;
        let way = ways.iter().find(|way| has_key(way, |name| std::env::var_os(name).is_some()))?;
        Some(way.id.clone())
    }

    /// Sets the mode and the model that the kind asks for, where the agent offers them, and tells what there is.
    async fn set_up(&self, live: &Live, thread: &str, answer: &Value) {
        live.offers().insert(thread.to_owned(), Offer::of(answer));
        for (setting, wanted) in [(Setting::Mode, &self.options.mode), (Setting::Model, &self.options.model)] {
            let Some(wanted) = wanted else { continue };
            let what = setting.word();
            let choice = live.offers().get(thread).and_then(|offer| offer.find(thread, setting, wanted));
            let Some(choice) = choice else {
                let text = format!("the agent offers no {what} {wanted:?}; it goes on with its own");
                self.tell(News::Notice(text)).await;
                continue;
            };
            if let Err(error) = choose(live, thread, &choice).await {
                let error = told(live, error, "the agent refuses").await;
                self.tell(News::Notice(format!("the {what} {wanted:?} cannot be set: {error}"))).await;
            }
        }
        self.tell_offer(live, thread).await;
    }

    /// Which modes and models there are and which are chosen, for the event feed.
    pub(super) async fn tell_offer(&self, live: &Live, thread: &str) {
        let data = live.offers().get(thread).map(|offer| offer.told(thread));
        if let Some(data) = data {
            self.tell(News::Offer { thread: thread.to_owned(), data }).await;
        }
    }

    /// Somebody wants another mode or model in a thread.
    pub(super) async fn set(self: Arc<Self>, thread: String, setting: Setting, wanted: String) {
        let Err(error) = self.try_set(&thread, setting, &wanted).await else { return };
        let what = setting.word();
        self.tell(News::Notice(format!("the {what} {wanted:?} cannot be set: {error}"))).await;
        let data = json!({"acp_thread_id": thread, "setting": what, "wanted": wanted, "error": error});
        self.tell(News::Custom { name: "agent_modes_refused", data }).await;
    }

    async fn try_set(self: &Arc<Self>, thread: &str, setting: Setting, wanted: &str) -> Result<(), String> {
        match self.prepare(Some(thread.to_owned())).await {
            Ok(_) => {}
            Err(End::NotStarted { error } | End::Failed { error }) => return Err(error),
            Err(_) => return Err("the thread cannot be loaded".to_owned()),
        }
        let live = self.live().await?;
        let choice = live.offers().get(thread).and_then(|offer| offer.find(thread, setting, wanted));
        let choice = choice.unwrap_or_else(|| Choice::of(thread, setting, wanted));
        match choose(&live, thread, &choice).await {
            Ok(()) => self.tell_offer(&live, thread).await,
            Err(error) => return Err(told(&live, error, "the agent refuses").await),
        }
        Ok(())
    }
}

/// Asks the agent for a choice and notes it.
async fn choose(live: &Live, thread: &str, choice: &Choice) -> Result<(), RpcError> {
    let answer = match choice {
        Choice::Mode(request) => live.rpc.request(request).await,
        Choice::Model(request) => live.rpc.request(request).await,
        Choice::Option(request) => live.rpc.request(request).await,
    };
    live.offers().entry(thread.to_owned()).or_default().chosen(choice, &answer?);
    Ok(())
}

/// Whether a way to authenticate needs nothing but what is in the environment.
fn has_key(way: &Way, is_set: impl Fn(&str) -> bool) -> bool {
    if let Some(vars) = &way.vars {
        let mut needed = vars.iter().filter(|var| !var.optional).peekable();
        return needed.peek().is_some() && needed.all(|var| is_set(&var.name));
    }
    let id = way.id.to_lowercase();
    KEYS.iter().any(|(part, name)| id.contains(part) && is_set(name))
}

/// Servers look for these words.
const NO_LOADING: &str = "Agent does not support session loading";

fn not_loaded(error: &str) -> End {
    // The engine's word for it, which servers look for.
    End::NotStarted { error: format!("Failed to load thread: {error}") }
}

async fn told(live: &Live, error: RpcError, what: &str) -> String {
    match error {
        RpcError::Refused(error) => format!("{what}: {}", error.message),
        RpcError::Gone => format!("{what}, since it ended: {}", live.reason().await),
    }
}

/// Tokens of a turn: in the answer, or where some agents put them before the protocol had a place.
pub(super) fn usage(answer: &Value) -> Option<TokenUsage> {
    let place = ["/usage", "/_meta/usage", "/_meta/quota/token_count"]
        .iter()
        .find_map(|path| answer.pointer(path).filter(|usage| usage.is_object()))?;
    let number = |names: [&str; 2]| names.iter().find_map(|name| place.get(*name)?.as_u64()).unwrap_or(0);
    let mut usage = TokenUsage {
        total_tokens: number(["totalTokens", "total_tokens"]),
        input_tokens: number(["inputTokens", "input_tokens"]),
        output_tokens: number(["outputTokens", "output_tokens"]),
        thought_tokens: number(["thoughtTokens", "thought_tokens"]),
        cached_read_tokens: number(["cachedReadTokens", "cached_read_tokens"]),
        cached_write_tokens: number(["cachedWriteTokens", "cached_write_tokens"]),
    };
    if usage.total_tokens == 0 {
        usage.total_tokens = usage.input_tokens + usage.output_tokens;
    }
    Some(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_in_is_one_whose_key_is_there() {
        let there = |name: &str| name == "GEMINI_API_KEY";
        let has_key = |way: Value| has_key(&Way::deserialize(way).expect("a way"), there);
        assert!(has_key(json!({"id": "gemini-api-key", "name": "x"})));
        assert!(!has_key(json!({"id": "oauth-personal", "name": "x", "vars": null})));
        let vars = |name: &str| json!({"id": "k", "type": "env_var", "vars": [{"name": name}]});
        assert!(has_key(vars("GEMINI_API_KEY")) && !has_key(vars("OTHER")));
    }

    #[test]
    fn usage_is_read_wherever_it_is() {
        let usage = usage(&json!({"_meta": {"quota": {"token_count": {"input_tokens": 3, "output_tokens": 4}}}}));
        assert_eq!(usage.map(|usage| usage.total_tokens), Some(7));
    }
}
