//! What an agent lets a thread choose, modes and models, and what is chosen. Pure.
//!
//! Models come in two forms: as an option of the session (`configOptions`), and, from many agents still, in a list with
//! a request of its own (`session/set_model`), which the protocol had before.

use agent_client_protocol::JsonRpcRequest;
use agent_client_protocol::v1::schema::{
    SessionConfigId, SessionConfigKind, SessionConfigOption, SessionConfigOptionCategory, SessionConfigSelect,
    SessionConfigSelectOption, SessionConfigSelectOptions, SessionConfigValueId, SessionId, SessionModeId,
    SessionModeState, SetSessionConfigOptionRequest, SetSessionConfigOptionResponse, SetSessionModeRequest,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bridge::agent::Setting;

/// What can be chosen in one thread.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    modes: Option<SessionModeState>,
    models: Option<Models>,
    options: Vec<SessionConfigOption>,
}

/// Models in a list of their own.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Models {
    current_model_id: String,
    #[serde(default)]
    available_models: Vec<Model>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Model {
    #[serde(rename = "modelId")]
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

/// Choose one of [`Models`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonRpcRequest)]
#[request(method = "session/set_model", response = Value)]
#[serde(rename_all = "camelCase")]
pub struct SetSessionModelRequest {
    session_id: SessionId,
    model_id: String,
}

/// A request that makes a choice.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// A mode.
    Mode(SetSessionModeRequest),
    /// A model of the list.
    Model(SetSessionModelRequest),
    /// A mode or a model that is an option of the session.
    Option(SetSessionConfigOptionRequest),
}

impl Offer {
    /// From the answer to a session's making or loading.
    pub fn of(answer: &Value) -> Self {
        let options = answer.get("configOptions").and_then(Value::as_array).into_iter().flatten();
        Self {
            modes: answer.get("modes").and_then(read),
            models: answer.get("models").and_then(read),
            options: options.filter_map(read).collect(),
        }
    }

    /// For the event feed.
    pub fn told(&self, thread: &str) -> Value {
        json!({
            "acp_thread_id": thread, "modes": self.modes, "models": self.models, "config_options": self.options,
        })
    }

    /// The request that chooses `wanted`, an id or a name of what is offered.
    pub fn find(&self, thread: &str, setting: Setting, wanted: &str) -> Option<Choice> {
        let is = |id: &str, name: &str| id.eq_ignore_ascii_case(wanted) || name.eq_ignore_ascii_case(wanted);
        let listed = match setting {
            Setting::Mode => {
                let modes = self.modes.iter().flat_map(|modes| &modes.available_modes);
                modes.map(|mode| (&*mode.id.0, mode.name.as_str())).find(|(id, name)| is(id, name))
            }
            Setting::Model => {
                let models = self.models.iter().flat_map(|models| &models.available_models);
                models.map(|model| (model.id.as_str(), model.name.as_str())).find(|(id, name)| is(id, name))
            }
        };
        if let Some((id, _)) = listed {
            return Some(Choice::of(thread, setting, id));
        }
        let (option, select) = self.options.iter().find_map(|option| Some((option, selected(option, setting)?)))?;
        let value = values(select).into_iter().find(|value| is(&value.value.0, &value.name))?;
        Some(Choice::option(thread, &option.id, &value.value))
    }

    /// A choice was made, and this is what the agent says to it.
    pub fn chosen(&mut self, choice: &Choice, answer: &Value) {
        match choice {
            Choice::Mode(request) => self.in_mode(&request.mode_id),
            Choice::Model(request) => {
                if let Some(models) = &mut self.models {
                    models.current_model_id.clone_from(&request.model_id);
                }
            }
            Choice::Option(_) => {
                if let Some(answer) = read::<SetSessionConfigOptionResponse>(answer) {
                    self.options = answer.config_options;
                }
            }
        }
    }

    /// The agent is in this mode now.
    pub fn in_mode(&mut self, mode: &SessionModeId) {
        if let Some(modes) = &mut self.modes {
            modes.current_mode_id = mode.clone();
        }
    }

    /// The agent offers other options now.
    pub fn set_options(&mut self, options: Vec<SessionConfigOption>) {
        self.options = options;
    }
}

impl Choice {
    /// By id, whether it is offered or not: the agent knows.
    pub fn of(thread: &str, setting: Setting, id: &str) -> Self {
        let session_id = SessionId::new(thread);
        match setting {
            Setting::Mode => Self::Mode(SetSessionModeRequest::new(session_id, SessionModeId::new(id))),
            Setting::Model => Self::Model(SetSessionModelRequest { session_id, model_id: id.to_owned() }),
        }
    }

    fn option(thread: &str, option: &SessionConfigId, value: &SessionConfigValueId) -> Self {
        Self::Option(SetSessionConfigOptionRequest::new(SessionId::new(thread), option.clone(), value.clone()))
    }
}

/// One part that cannot be read is not offered.
fn read<T: DeserializeOwned>(part: &Value) -> Option<T> {
    T::deserialize(part).ok()
}

/// The option's choices, if it is this setting.
fn selected(option: &SessionConfigOption, setting: Setting) -> Option<&SessionConfigSelect> {
    let (category, id) = match setting {
        Setting::Mode => (SessionConfigOptionCategory::Mode, "mode"),
        Setting::Model => (SessionConfigOptionCategory::Model, "model"),
    };
    match &option.kind {
        SessionConfigKind::Select(select) if option.category == Some(category) || &*option.id.0 == id => Some(select),
        _ => None,
    }
}

/// Choices are in one list, or in groups of them.
fn values(select: &SessionConfigSelect) -> Vec<&SessionConfigSelectOption> {
    match &select.options {
        SessionConfigSelectOptions::Ungrouped(values) => values.iter().collect(),
        SessionConfigSelectOptions::Grouped(groups) => groups.iter().flat_map(|group| &group.options).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn modes_and_models_are_found_by_id_or_name_and_chosen() {
        let options = |current: &str| {
            json!([{"id": "m", "name": "Model", "category": "model", "type": "select", "currentValue": current,
                "options": [{"group": "g", "name": "Fast ones", "options": [{"value": "m-1", "name": "Mini"},
                    {"value": "m-2", "name": "Nano"}]}]}])
        };
        let mut offer = Offer::of(&json!({
            "modes": {"currentModeId": "ask", "availableModes": [{"id": "yolo", "name": "Do all"}, 7]},
            "configOptions": options("m-2"),
        }));
        let mode = offer.find("t", Setting::Mode, "do all").unwrap();
        assert_eq!(mode, Choice::of("t", Setting::Mode, "yolo"));
        offer.chosen(&mode, &json!({}));
        let model = offer.find("t", Setting::Model, "mini").unwrap();
        let Choice::Option(request) = &model else { panic!("{model:?}") };
        assert_eq!(serde_json::to_value(request).unwrap(), json!({"sessionId": "t", "configId": "m", "value": "m-1"}));
        assert_eq!(offer.find("t", Setting::Model, "other"), None);
        offer.chosen(&model, &json!({"configOptions": options("m-1")}));
        let told = offer.told("t");
        assert_eq!(told["modes"]["currentModeId"], "yolo");
        assert_eq!(told["config_options"][0]["currentValue"], "m-1");
    }

    #[test]
    fn models_in_a_list_of_their_own_are_chosen_by_their_own_request() {
        let models =
            json!({"currentModelId": "a", "availableModels": [{"modelId": "a", "name": "A"}, {"modelId": "b"}]});
        let mut offer = Offer::of(&json!({"models": models}));
        let choice = offer.find("t", Setting::Model, "B").unwrap();
        assert_eq!(choice, Choice::of("t", Setting::Model, "b"));
        offer.chosen(&choice, &Value::Null);
        assert_eq!(offer.told("t")["models"]["currentModelId"], "b");
        let Choice::Model(request) = choice else { panic!("{choice:?}") };
        assert_eq!(serde_json::to_value(request).unwrap(), json!({"sessionId": "t", "modelId": "b"}));
    }
}
