//! Threads are the agent's sessions: made, loaded, authenticated for, and set to a mode and a model.

use std::sync::Arc;

use helix_protocol::thread::TokenUsage;
use serde_json::{Value, json};

use super::Acp;
use super::process::Live;
use super::rpc::RpcError;
use crate::bridge::agent::News;
use crate::bridge::record::End;

/// JSON-RPC code of the protocol: authenticate first.
const AUTH_REQUIRED: i64 = -32000;
/// JSON-RPC code of the protocol: no such thing.
const NOT_FOUND: i64 = -32002;

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

impl Acp {
    /// Makes or loads a thread; answers its id.
    pub(super) async fn prepare(self: &Arc<Self>, thread: Option<String>) -> Result<String, End> {
        let again = |error| End::Failed { error: format!("the agent cannot be started again: {error}") };
        let live = self.live().await.map_err(again)?;
        let Some(thread) = thread else { return self.new_thread(&live).await };
        if !live.has(&thread) {
            self.load(&live, &thread).await?;
        }
        Ok(thread)
    }

    async fn new_thread(&self, live: &Live) -> Result<String, End> {
        let answer = self.ask(live, "session/new", &json!({"cwd": self.options.project, "mcpServers": []})).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(End::Failed { error: told(live, error, "the agent makes no session").await }),
        };
        let Some(thread) = answer.get("sessionId").and_then(Value::as_str).map(ToOwned::to_owned) else {
            return Err(End::Failed { error: "the agent made a session without an id".to_owned() });
        };
        live.got(&thread);
        self.tell_modes(&thread, &answer).await;
        self.set_up(live, &thread, &answer).await;
        Ok(thread)
    }

    async fn load(&self, live: &Live, thread: &str) -> Result<(), End> {
        let facts = live.facts.get().unwrap_or(&Value::Null);
        let can = |path: &str| facts.pointer(path).is_some_and(|value| !value.is_null() && value != false);
        let method = if can("/agentCapabilities/sessionCapabilities/resume") {
            "session/resume"
        } else if can("/agentCapabilities/loadSession") {
            "session/load"
        } else {
            return Err(not_loaded("Agent does not support session loading"));
        };
        let params = json!({"sessionId": thread, "cwd": self.options.project, "mcpServers": []});
        live.set_loading(thread, true);
        let answer = self.ask(live, method, &params).await;
        live.set_loading(thread, false);
        let answer = match answer {
            Ok(answer) => answer,
            Err(RpcError::Refused { code: NOT_FOUND, message }) => {
                return Err(not_loaded(&format!("Resource not found: {thread} ({message})")));
            }
            Err(error) => return Err(not_loaded(&told(live, error, "the agent does not load it").await)),
        };
        live.got(thread);
        self.set_up(live, thread, &answer).await;
        Ok(())
    }

    /// Asks, and once more after authentication where that is wanted.
    async fn ask(&self, live: &Live, method: &str, params: &Value) -> Result<Value, RpcError> {
        let first = live.rpc.request(method, params).await;
        let Err(RpcError::Refused { code: AUTH_REQUIRED, message }) = first else { return first };
        let Some(way) = self.way_in(live) else {
            let message = format!("{message}; no key for it is in the environment: give it as a secret of the session");
            return Err(RpcError::Refused { code: AUTH_REQUIRED, message });
        };
        live.rpc.request("authenticate", &json!({"methodId": way})).await?;
        live.rpc.request(method, params).await
    }

    /// The way to authenticate that was asked for, or the first whose key is there.
    fn way_in(&self, live: &Live) -> Option<String> {
        if let Some(way) = &self.options.auth_method {
            return Some(way.clone());
        }
        let ways = live.facts.get()?.get("authMethods")?.as_array()?;
        ways.iter().find(|way| has_key(way, |name| std::env::var_os(name).is_some())).and_then(way_id)
    }

    /// Which modes and models there are, for the event feed.
    async fn tell_modes(&self, thread: &str, answer: &Value) {
        let part = |name: &str| answer.get(name).cloned().unwrap_or_default();
        let data = json!({
            "acp_thread_id": thread, "modes": part("modes"), "models": part("models"),
            "config_options": part("configOptions"),
        });
        self.tell(News::Custom { name: "agent_modes", data }).await;
    }

    /// Sets the mode and the model that the kind asks for, where the agent offers them.
    async fn set_up(&self, live: &Live, thread: &str, answer: &Value) {
        for (what, wanted) in [("mode", &self.options.mode), ("model", &self.options.model)] {
            let Some(wanted) = wanted else { continue };
            let Some((method, mut params)) = setting(answer, what, wanted) else {
                self.tell(News::Notice(format!("the agent offers no {what} {wanted:?}; it goes on with its own")))
                    .await;
                continue;
            };
            params["sessionId"] = json!(thread);
            if let Err(error) = live.rpc.request(method, &params).await {
                self.tell(News::Notice(format!("the {what} {wanted:?} cannot be set: {error:?}"))).await;
            }
        }
    }
}

/// The request that sets a mode or a model, by id or name.
fn setting(answer: &Value, what: &str, wanted: &str) -> Option<(&'static str, Value)> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let named = |list: &Value, id: &str| {
        let list = list.as_array()?;
        let found = list.iter().find(|item| {
            [id, "id", "value", "name"]
                .iter()
                .any(|name| text(item, name).is_some_and(|it| it.eq_ignore_ascii_case(wanted)))
        })?;
        [id, "id", "value"].iter().find_map(|name| text(found, name))
    };
    let (method, list, id, param) = match what {
        "mode" => ("session/set_mode", "/modes/availableModes", "id", "modeId"),
        _ => ("session/set_model", "/models/availableModels", "modelId", "modelId"),
    };
    if let Some(found) = answer.pointer(list).and_then(|list| named(list, id)) {
        return Some((method, json!({param: found})));
    }
    let options = answer.get("configOptions")?.as_array()?;
    let option = options.iter().find(|option| {
        text(option, "category").as_deref() == Some(what) || text(option, "id").as_deref() == Some(what)
    })?;
    // Choices are in one list, or in groups of them.
    let choices = option.get("options")?;
    let in_groups = || choices.as_array()?.iter().find_map(|group| named(group.get("options")?, "value"));
    let value = named(choices, "value").or_else(in_groups)?;
    Some(("session/set_config_option", json!({"configId": text(option, "id")?, "value": value})))
}

fn way_id(way: &Value) -> Option<String> {
    Some(way.get("id")?.as_str()?.to_owned())
}

/// Whether a way to authenticate needs nothing but what is in the environment.
fn has_key(way: &Value, is_set: impl Fn(&str) -> bool) -> bool {
    if let Some(names) = way.get("vars").and_then(Value::as_array) {
        let optional = |var: &Value| var.get("optional").and_then(Value::as_bool).unwrap_or_default();
        let name = |var: &Value| Some(var.get("name")?.as_str()?.to_owned());
        let mut needed = names.iter().filter(|var| !optional(var)).filter_map(name).peekable();
        return needed.peek().is_some() && needed.all(|name| is_set(&name));
    }
    let id = way_id(way).unwrap_or_default().to_lowercase();
    KEYS.iter().any(|(part, name)| id.contains(part) && is_set(name))
}

fn not_loaded(error: &str) -> End {
    // The engine's word for it, which servers look for.
    End::NotStarted { error: format!("Failed to load thread: {error}") }
}

async fn told(live: &Live, error: RpcError, what: &str) -> String {
    match error {
        RpcError::Refused { message, .. } => format!("{what}: {message}"),
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
    fn modes_and_models_are_found_by_id_or_name() {
        let answer = json!({
            "modes": {"availableModes": [{"id": "yolo", "name": "Do all"}]},
            "configOptions": [{"id": "model", "category": "model", "type": "select", "options": [
                {"name": "Fast ones", "options": [{"value": "m-1", "name": "Mini"}]}]}],
        });
        assert_eq!(setting(&answer, "mode", "do all"), Some(("session/set_mode", json!({"modeId": "yolo"}))));
        let model = json!({"configId": "model", "value": "m-1"});
        assert_eq!(setting(&answer, "model", "mini"), Some(("session/set_config_option", model)));
        assert_eq!(setting(&answer, "model", "other"), None);
    }

    #[test]
    fn a_way_in_is_one_whose_key_is_there() {
        let there = |name: &str| name == "GEMINI_API_KEY";
        assert!(has_key(&json!({"id": "gemini-api-key", "name": "x"}), there));
        assert!(!has_key(&json!({"id": "oauth-personal", "name": "x"}), there));
        let vars = |name: &str| json!({"id": "k", "type": "env_var", "vars": [{"name": name}]});
        assert!(has_key(&vars("GEMINI_API_KEY"), there) && !has_key(&vars("OTHER"), there));
    }

    #[test]
    fn usage_is_read_wherever_it_is() {
        let usage = usage(&json!({"_meta": {"quota": {"token_count": {"input_tokens": 3, "output_tokens": 4}}}}));
        assert_eq!(usage.map(|usage| usage.total_tokens), Some(7));
    }
}
