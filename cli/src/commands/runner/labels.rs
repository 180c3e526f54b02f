//! `helixctl runner labels`: what an operator calls a runner.

use std::collections::BTreeMap;

use clap::Args;
use helix_protocol::RunnerId;
use helix_protocol::api::runners::AmendRunner;

use super::list::label_list;
use crate::client::Client;
use crate::error::Result;
use crate::ui::Ui;

/// Arguments of `runner labels`.
#[derive(Debug, Args)]
pub struct LabelsArgs {
    /// Runner id
    id: RunnerId,
    /// KEY=VALUE sets a label, KEY- removes one that was set so; without any, the labels are shown
    #[arg(value_name = "KEY=VALUE|KEY-", value_parser = parse_change)]
    changes: Vec<(String, Option<String>)>,
}

/// Shows or changes the labels.
pub async fn run(client: &Client, args: LabelsArgs, ui: &Ui) -> Result<()> {
    let LabelsArgs { id, changes } = args;
    let labels: BTreeMap<_, _> = changes.into_iter().collect();
    let view = if labels.is_empty() {
        client.runner(&id).await?
    } else {
        client.amend_runner(&id, &AmendRunner { labels, cordoned: None }).await?
    };
    ui.answer(&view.labels, || label_list(&view).iter().try_for_each(|label| ui.line(label)))
}

fn parse_change(text: &str) -> Result<(String, Option<String>), String> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((name, value)), _) if !name.is_empty() => Ok((name.to_owned(), Some(value.to_owned()))),
        (None, Some(name)) if !name.is_empty() => Ok((name.to_owned(), None)),
        _ => Err("write KEY=VALUE, or KEY- to remove it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_set_or_remove() {
        assert_eq!(parse_change("a=b-"), Ok(("a".to_owned(), Some("b-".to_owned()))));
        assert_eq!(parse_change("a-"), Ok(("a".to_owned(), None)));
        for bad in ["", "-", "=b", "a"] {
            assert!(parse_change(bad).is_err(), "{bad}");
        }
    }
}
