//! `freezeframe batch quote` and `freezeframe batch submit --dry-run`: what the batch would cost, and whether the service would
//! take it.
//!
//! Refuses: to promise. Prices and the wallet are those of this moment; the service checks again when the batch comes. To
//! upload anything: items whose image lies beside the file are priced without it, after a look whether their model takes one.

use std::collections::{BTreeSet, HashMap};
use std::process::ExitCode;

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value, json};

use super::input::{Fault, Faults, IMAGE, Items, LocalImage};
use super::order::OrderArgs;
use super::{Connection, show};
use crate::cli::client::{Answer, Api, CallError, Quote};
use crate::cli::output::{self, Table, amount, count, plain};
use crate::cli::progress::number;

const NOTES: &str = "\
The file is written as for `freezeframe batch submit`. Nothing is frozen, bought
or uploaded.

Exit codes: 0 would be accepted, 1 would not, or error.";

/// Ask what the videos of a file would cost as one batch.
#[derive(Args)]
#[command(after_help = NOTES)]
pub(super) struct QuoteArgs {
    #[command(flatten)]
    order: OrderArgs,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: QuoteArgs) -> Result<ExitCode> {
    let (items, images) = args.order.read()?;
    let quote = ask(&args.connection.api()?, &args.order, (&items, &images)).await?;
    if args.connection.json {
        output::json(&quote.raw)?;
    } else {
        output::line(&report(&quote.value))?;
    }
    Ok(verdict(&quote.value))
}

/// Without a key, what can be said without the service.
pub(super) async fn dry_run(
    order: &OrderArgs,
    (items, images): (&Items, &[LocalImage]),
    connection: &Connection,
) -> Result<ExitCode> {
    if !connection.has_key() {
        let many = count(items.items.len(), "item");
        if connection.json {
            output::json(&json!({ "items": items.items.len(), "submitted": false }))?;
        } else {
            output::line(&format!("{}: {many}, nothing wrong as far as the file goes; nothing was sent", items.name))?;
        }
        output::aside("with an API key (FREEZEFRAME_API_KEY) the models are checked and the price is told");
        return Ok(ExitCode::SUCCESS);
    }
    let quote = ask(&connection.api()?, order, (items, images)).await?;
    if connection.json {
        let mut document = quote.raw.clone();
        document["items"] = json!(items.items.len());
        document["shortfall_credits"] = json!(quote.value.missing_credits);
        document["submitted"] = json!(false);
        output::json(&document)?;
    } else {
        output::line(&report(&quote.value))?;
    }
    output::aside("nothing was submitted");
    Ok(verdict(&quote.value))
}

async fn ask(api: &Api, order: &OrderArgs, (items, images): (&Items, &[LocalImage])) -> Result<Answer<Quote>> {
    let mut listed = items.to_json();
    if !images.is_empty() {
        look_at_images(api, items, images).await?;
        leave_out(&mut listed, images);
        output::aside(
            "images beside the file are not uploaded for a quote; they are looked at when the batch is submitted",
        );
    }
    let body = Bytes::from(order.body(listed)?.to_string());
    api.quote(&body).await.map_err(|error| match error {
        CallError::Refused(problem) if problem.names_places() => items.explain(&problem).into(),
        error => error.into(),
    })
}

/// Whether the models of items with an image of this machine take one.
async fn look_at_images(api: &Api, items: &Items, images: &[LocalImage]) -> Result<()> {
    let ids: BTreeSet<String> = images.iter().map(LocalImage::id).collect();
    let models = api.models().await?;
    let takes: HashMap<&str, bool> =
        models.iter().map(|model| (model.value.name.as_str(), model.value.accepts_reference_image)).collect();
    let text = |fields: &Map<String, Value>, field: &str| {
        fields.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let wrong = items.items.iter().filter(|item| ids.contains(&text(&item.fields, IMAGE))).filter_map(|item| {
        let model = text(&item.fields, "model");
        let detail = format!("cannot be used: `{model}` takes no reference image");
        (takes.get(model.as_str()) == Some(&false)).then(|| Fault::at(item.line, IMAGE, detail))
    });
    let found: Vec<Fault> = wrong.collect();
    if found.is_empty() { Ok(()) } else { Err(Faults { name: items.name.clone(), found }.into()) }
}

fn leave_out(listed: &mut Value, images: &[LocalImage]) {
    let ids: BTreeSet<String> = images.iter().map(LocalImage::id).collect();
    for item in listed.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if item.get(IMAGE).and_then(Value::as_str).is_some_and(|id| ids.contains(id)) {
            item.remove(IMAGE);
        }
    }
}

fn verdict(quote: &Quote) -> ExitCode {
    if quote.would_be_accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(quote: &Quote) -> String {
    let mut table = Table::new(["~model", ">seconds", "size", ">videos", ">each", ">credits"]);
    for group in &quote.groups {
        table.row([
            plain(&group.model),
            group.seconds.to_string(),
            plain(&group.size),
            number(group.count),
            amount(group.credits_each),
            amount(group.credits),
        ]);
    }
    let many = count(quote.total, "video");
    let mut text = format!(
        "{}\n\n  price   {} credits for {many}\n",
        table.render_within(output::width()),
        amount(quote.price_credits)
    );
    let (available, missing) = (amount(quote.available_credits), quote.missing_credits);
    text.push_str(&match missing {
        0 => {
            let left = amount(quote.available_credits.saturating_sub(quote.price_credits));
            format!("  wallet  {available} credits available, {left} would be left")
        }
        missing => format!("  wallet  {available} credits available, {} too few", amount(missing)),
    });
    if let Some(at) = quote.starts_at {
        text.push_str(&format!("\n  begins  about {}", show::moment(at)));
    }
    if let Some(at) = quote.finishes_at {
        text.push_str(&format!("\n  ends    about {}", show::moment(at)));
    }
    text
}
