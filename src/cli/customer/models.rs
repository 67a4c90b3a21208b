//! `freezeframe models`: what can be ordered, and what it costs.

use std::process::ExitCode;

use anyhow::{Result, bail};
use chrono::Utc;
use clap::Args;

use super::{Connection, list_document};
use crate::cli::client::Model;
use crate::cli::output::{self, Table, amount, plain};

/// List the models, or the prices of one.
#[derive(Args)]
pub(in crate::cli) struct ModelsArgs {
    /// Show every price of this model
    model: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: ModelsArgs) -> Result<ExitCode> {
    let api = args.connection.api()?;
    let mut models = api.models().await?;
    if let Some(name) = &args.model {
        let known: Vec<String> = models.iter().map(|model| plain(&model.value.name)).collect();
        models.retain(|model| model.value.name == *name);
        if models.is_empty() {
            bail!("there is no model `{}`; there are {}", plain(name), known.join(", "));
        }
    }
    if args.connection.json {
        output::json(&list_document(&models))?;
    } else if args.model.is_some() {
        for model in &models {
            output::line(&prices(&model.value))?;
        }
    } else {
        output::line(&offers(models.iter().map(|model| &model.value), output::width()))?;
        output::aside("every price of one: freezeframe models MODEL");
    }
    Ok(ExitCode::SUCCESS)
}

fn offers<'m>(models: impl IntoIterator<Item = &'m Model>, width: usize) -> String {
    let mut table = Table::new(["model", ">credits", "seconds", "image", "~sizes", "~until"]);
    for model in models {
        let prices = || model.prices.iter().map(|price| price.price_credits);
        let range = match (prices().min(), prices().max()) {
            (Some(least), Some(most)) if least != most => format!("{}-{}", amount(least), amount(most)),
            (Some(only), _) => amount(only),
            (None, _) => "-".to_owned(),
        };
        let seconds = model.seconds.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let image = if model.accepts_reference_image { "yes" } else { "" };
        let sizes = plain(&model.sizes.join(","));
        table.row([plain(&model.name), range, seconds, image.to_owned(), sizes, until(model)]);
    }
    table.render_within(width)
}

fn until(model: &Model) -> String {
    match (model.available_until, model.available) {
        (_, false) => "retired".to_owned(),
        (Some(day), true) => day.to_string(),
        (None, true) => String::new(),
    }
}

fn prices(model: &Model) -> String {
    let mut table = Table::new([">seconds", "size", ">credits"]);
    for price in &model.prices {
        let usual = price.seconds == model.default_seconds && price.size == model.default_size;
        let size = if usual { format!("{} (default)", plain(&price.size)) } else { plain(&price.size) };
        table.row([price.seconds.to_string(), size, amount(price.price_credits)]);
    }
    let replacement = model.replacement.as_ref().map(|name| format!("; then use {}", plain(name))).unwrap_or_default();
    let until = match model.available_until {
        Some(day) if day < Utc::now().date_naive() => format!(", retired since {day}{replacement}"),
        Some(day) => format!(", until {day}{replacement}"),
        None => String::new(),
    };
    let chars = amount(i64::try_from(model.max_prompt_chars).unwrap_or(i64::MAX));
    let image = match (model.accepts_reference_image, model.reference_image_matches_size) {
        (false, _) => "",
        (true, false) => "\n  takes a reference image",
        (true, true) => "\n  takes a reference image of the video's size",
    };
    format!("  {}{until}; prompts of up to {chars} characters{image}\n\n{}", plain(&model.name), table.render())
}
