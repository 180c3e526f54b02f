//! Pure: a question's JSON Schema as fields that a person fills in line by line, and their lines as its answer.
//!
//! Understood is what agents ask for: an object of texts, numbers, yes or no, one of several, some of several. Whatever
//! else a schema says is asked for as JSON, and what a field's rules beyond its type are is the agent's to check.

use serde_json::{Map, Value};

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    fields: Vec<Field>,
    given: Map<String, Value>,
    /// Fields that have their answer, or were left out.
    passed: usize,
}

#[derive(Debug, Clone, PartialEq)]
struct Field {
    name: String,
    title: String,
    about: String,
    kind: Kind,
    required: bool,
    default: Option<Value>,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Text,
    Number,
    Integer,
    Bool,
    One(Vec<Choice>),
    Some(Vec<Choice>),
    Json,
}

#[derive(Debug, Clone, PartialEq)]
struct Choice {
    value: Value,
    title: String,
}

/// What a line came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Filled {
    /// The next field waits.
    More,
    /// All is there: the content of an `accept`.
    Accept(Value),
    /// The person said no.
    Decline,
    /// It cannot be taken; why.
    Wrong(String),
}

impl Form {
    /// The fields of a schema; one without fields is a question for yes or no.
    pub fn new(schema: &Value) -> Self {
        let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = schema["properties"].as_object().into_iter().flatten();
        let mut fields: Vec<_> = properties
            .map(|(name, schema)| {
                let text = |key: &str| schema[key].as_str().unwrap_or_default().to_owned();
                Field {
                    name: name.clone(),
                    title: text("title"),
                    about: text("description"),
                    kind: Kind::of(schema),
                    required: required.contains(&name.as_str()),
                    default: schema.get("default").filter(|value| !value.is_null()).cloned(),
                }
            })
            .collect();
        // What must be said first. The order of the schema is lost: an object here is sorted by name.
        fields.sort_by_key(|field| !field.required);
        Self { fields, given: Map::new(), passed: 0 }
    }

    /// Asks for what is next.
    pub fn question(&self) -> String {
        let Some(field) = self.fields.get(self.passed) else { return "y or n:".to_owned() };
        let mut text = field.name.clone();
        // A question for leave: its one field has no more to say than its choices.
        if self.fields.len() == 1 && !field.kind.choices().is_empty() && field.title.is_empty() {
            text.clear();
        }
        if !field.title.is_empty() && field.title != field.name {
            text.extend([" (", &field.title, ")"]);
        }
        if !field.about.is_empty() {
            text.extend([": ", &field.about]);
        }
        for (number, choice) in field.kind.choices().iter().enumerate() {
            text.extend(["\n  ", &(number + 1).to_string(), ") ", &choice.title]);
        }
        let how = match &field.kind {
            Kind::Text => "text",
            Kind::Number => "a number",
            Kind::Integer => "a whole number",
            Kind::Bool => "y or n",
            Kind::One(_) => "a number of the list",
            Kind::Some(_) => "numbers of the list, with commas",
            Kind::Json => "JSON",
        };
        let empty = match (&field.default, field.required) {
            (Some(default), _) => format!("; empty for {}", shown(default)),
            (None, false) => "; empty for none".to_owned(),
            (None, true) => String::new(),
        };
        format!("{text}\n[{how}{empty}]").trim_start_matches('\n').to_owned()
    }

    /// Takes the next line.
    pub fn fill(&mut self, line: &str) -> Filled {
        let line = line.trim();
        let Some(field) = self.fields.get(self.passed) else {
            return match yes_or_no(line) {
                Some(true) => Filled::Accept(Value::Null),
                Some(false) => Filled::Decline,
                None => Filled::Wrong("write y or n".to_owned()),
            };
        };
        let value = match (line, &field.default, field.required) {
            ("", Some(default), _) => Some(default.clone()),
            ("", None, false) => None,
            ("", None, true) if field.kind != Kind::Text => return Filled::Wrong("it must be answered".to_owned()),
            _ => match field.kind.value(line) {
                Ok(value) => Some(value),
                Err(why) => return Filled::Wrong(why),
            },
        };
        self.given.extend(value.map(|value| (field.name.clone(), value)));
        self.passed += 1;
        if self.passed < self.fields.len() { Filled::More } else { Filled::Accept(Value::Object(self.given.clone())) }
    }
}

impl Kind {
    fn of(schema: &Value) -> Self {
        let choices = Choice::of(schema);
        match schema["type"].as_str() {
            _ if !choices.is_empty() => Self::One(choices),
            Some("string") => Self::Text,
            Some("number") => Self::Number,
            Some("integer") => Self::Integer,
            Some("boolean") => Self::Bool,
            Some("array") => {
                let choices = Choice::of(&schema["items"]);
                if choices.is_empty() { Self::Json } else { Self::Some(choices) }
            }
            _ => Self::Json,
        }
    }

    fn choices(&self) -> &[Choice] {
        match self {
            Self::One(choices) | Self::Some(choices) => choices,
            _ => &[],
        }
    }

    fn value(&self, line: &str) -> Result<Value, String> {
        match self {
            Self::Text => Ok(Value::from(line)),
            Self::Number => {
                let number = line.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
                number.map(Value::Number).ok_or_else(|| "write a number".to_owned())
            }
            Self::Integer => line.parse::<i64>().map(Value::from).map_err(|_| "write a whole number".to_owned()),
            Self::Bool => yes_or_no(line).map(Value::from).ok_or_else(|| "write y or n".to_owned()),
            Self::One(choices) => chosen(choices, line),
            Self::Some(choices) => {
                let parts = line.split(',').map(str::trim).filter(|part| !part.is_empty());
                parts.map(|part| chosen(choices, part)).collect::<Result<Vec<_>, _>>().map(Value::Array)
            }
            Self::Json => serde_json::from_str(line).map_err(|error| format!("it is not JSON: {error}")),
        }
    }
}

impl Choice {
    /// `enum` with `enumNames`, or `oneOf`/`anyOf` of `const` with `title`.
    fn of(schema: &Value) -> Vec<Self> {
        if let Some(values) = schema["enum"].as_array() {
            let title = |number: usize, value: &Value| {
                schema["enumNames"][number].as_str().map_or_else(|| shown(value), str::to_owned)
            };
            let choice = |(number, value): (usize, &Value)| Self { value: value.clone(), title: title(number, value) };
            return values.iter().enumerate().map(choice).collect();
        }
        let alternatives = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()).into_iter().flatten();
        let choices: Option<Vec<_>> = alternatives
            .map(|one| {
                let value = one.get("const")?.clone();
                let title = one["title"].as_str().map_or_else(|| shown(&value), str::to_owned);
                Some(Self { value, title })
            })
            .collect();
        choices.unwrap_or_default()
    }
}

/// By its number, its title or its value.
fn chosen(choices: &[Choice], line: &str) -> Result<Value, String> {
    let by_number = line.parse::<usize>().ok().and_then(|number| choices.get(number.checked_sub(1)?));
    let by_name = || choices.iter().find(|choice| choice.title == line || shown(&choice.value) == line);
    let found = by_number.or_else(by_name);
    found.map(|choice| choice.value.clone()).ok_or_else(|| format!("write a number from 1 to {}", choices.len()))
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn yes_or_no(line: &str) -> Option<bool> {
    match line.to_lowercase().as_str() {
        "y" | "yes" | "true" => Some(true),
        "n" | "no" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_asked_one_by_one_and_become_the_content() {
        let mut form = Form::new(&json!({
            "type": "object",
            "required": ["db"],
            "properties": {
                "count": {"type": "integer", "title": "How many", "default": 2},
                "db": {"type": "string", "enum": ["pg", "sqlite"], "enumNames": ["PostgreSQL", "SQLite"],
                    "description": "where to store"},
                "extras": {"type": "array", "items": {"anyOf": [{"const": "a", "title": "Apples"}, {"const": "b"}]}},
                "note": {"type": "string"},
                "ratio": {"type": "number"},
                "raw": {"type": "object"},
                "sure": {"type": "boolean"}
            }
        }));
        let mut asked = Vec::new();
        let lines = [("3", false), ("", false), ("2", true), ("", true), ("1, b", true), ("", true), ("0.5", true)];
        let mut filled = Filled::More;
        for (line, taken) in lines {
            let question = form.question();
            filled = form.fill(line);
            assert_eq!(!matches!(filled, Filled::Wrong(_)), taken, "{question} {line:?}: {filled:?}");
            if taken {
                asked.push(question);
            }
        }
        asked.push(form.question());
        assert_eq!(filled, Filled::More);
        assert!(matches!(form.fill("{"), Filled::Wrong(_)));
        assert_eq!(form.fill("{\"x\": 1}"), Filled::More);
        asked.push(form.question());
        assert!(matches!(form.fill("maybe"), Filled::Wrong(_)));
        let content =
            json!({"db": "sqlite", "count": 2, "extras": ["a", "b"], "ratio": 0.5, "raw": {"x": 1}, "sure": true});
        assert_eq!(form.fill("yes"), Filled::Accept(content));
        insta::assert_snapshot!(asked.join("\n"), @r"
        db: where to store
          1) PostgreSQL
          2) SQLite
        [a number of the list]
        count (How many)
        [a whole number; empty for 2]
        extras
          1) Apples
          2) b
        [numbers of the list, with commas; empty for none]
        note
        [text; empty for none]
        ratio
        [a number; empty for none]
        raw
        [JSON; empty for none]
        sure
        [y or n; empty for none]
        ");
    }

    #[test]
    fn without_fields_it_is_yes_or_no() {
        for schema in [Value::Null, json!({"type": "object"}), json!({"type": "object", "properties": {}})] {
            let mut form = Form::new(&schema);
            assert_eq!(form.question(), "y or n:");
            assert!(matches!(form.fill(""), Filled::Wrong(_)));
            assert_eq!(form.clone().fill("Y"), Filled::Accept(Value::Null));
            assert_eq!(form.fill("no"), Filled::Decline);
        }
    }
}
