//! `freezeframe batch submit --dry-run`: what the batch would cost, and whether the service would take it.
//!
//! Refuses: to promise. Prices and the wallet are those of this moment; the service checks again when the batch comes.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Connection;
use super::input::{Fault, Faults, IMAGE, IMAGE_URL, Item, Items};
use crate::cli::client::Model;
use crate::cli::output::{self, Table, amount, count, plain};
use crate::cli::progress::number;

/// Model, seconds, size.
type Variant = (String, u32, String);

pub(super) async fn run(items: &Items, connection: &Connection) -> Result<ExitCode> {
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
    let api = connection.api()?;
    let models: HashMap<String, Model> =
        api.models().await?.into_iter().map(|model| (model.value.name.clone(), model.value)).collect();
    let variants = price(items, &models)?;
    let costs: Vec<i64> = variants
        .values()
        .map(|(many, price)| i64::try_from(*many).ok()?.checked_mul(*price))
        .collect::<Option<_>>()
        .context("the price cannot be counted")?;
    let total =
        costs.iter().try_fold(0i64, |sum, cost| sum.checked_add(*cost)).context("the price cannot be counted")?;
    let available = api.wallet().await?.value.available;
    if connection.json {
        output::json(&json!({
            "items": items.items.len(), "price_credits": total, "available_credits": available,
            "shortfall_credits": (total - available).max(0), "submitted": false,
        }))?;
    } else {
        output::line(&report(items, &variants, total))?;
        let (left, missing) = (amount(available - total), amount(total - available));
        let available = amount(available);
        output::line(&match missing.starts_with('-') || missing == "0" {
            true => format!("  wallet  {available} credits available, {left} would be left"),
            false => format!("  wallet  {available} credits available, {missing} too few"),
        })?;
    }
    output::aside("nothing was submitted");
    Ok(if total <= available { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(items: &Items, variants: &BTreeMap<Variant, (usize, i64)>, total: i64) -> String {
    let mut table = Table::new(["~model", ">seconds", "size", ">videos", ">each", ">credits"]);
    for ((model, seconds, size), (many, price)) in variants {
        let cost = amount(i64::try_from(*many).unwrap_or(i64::MAX).saturating_mul(*price));
        table.row([plain(model), seconds.to_string(), plain(size), number(*many), amount(*price), cost]);
    }
    let many = count(items.items.len(), "video");
    format!("{}\n\n  price   {} credits for {many}", table.render_within(output::width()), amount(total))
}

/// How many of each variant, and what one costs.
fn price(items: &Items, models: &HashMap<String, Model>) -> Result<BTreeMap<Variant, (usize, i64)>, Faults> {
    let mut found = Vec::new();
    let mut variants = BTreeMap::new();
    for item in &items.items {
        match variant(item, models) {
            Ok((variant, price)) => variants.entry(variant).or_insert((0, price)).0 += 1,
            Err(mut faults) => found.append(&mut faults),
        }
    }
    if found.is_empty() { Ok(variants) } else { Err(Faults { name: items.name.clone(), found }) }
}

fn variant(item: &Item, models: &HashMap<String, Model>) -> Result<(Variant, i64), Vec<Fault>> {
    let text = |field: &str| item.fields.get(field).and_then(Value::as_str);
    let wrong = |field: &str, detail: String| vec![Fault::at(item.line, field, detail)];
    let name = text("model").unwrap_or_default();
    let Some(model) = models.get(name) else {
        let mut names: Vec<&str> = models.keys().map(String::as_str).collect();
        names.sort_unstable();
        return Err(wrong("model", format!("is not offered; offered are {}", names.join(", "))));
    };
    if !model.available {
        let instead = model.replacement.as_ref().map(|name| format!("; use `{name}`")).unwrap_or_default();
        return Err(wrong("model", format!("`{name}` is no longer available{instead}")));
    }
    let mut found = Vec::new();
    let chars = text("prompt").unwrap_or_default().chars().count();
    if chars > model.max_prompt_chars {
        let most = model.max_prompt_chars;
        found.append(&mut wrong("prompt", format!("has {chars} characters; `{name}` takes at most {most}")));
    }
    for field in [IMAGE_URL, IMAGE] {
        if item.fields.get(field).is_some_and(|image| !image.is_null()) && !model.accepts_reference_image {
            found.append(&mut wrong(field, format!("cannot be used: `{name}` takes no reference image")));
        }
    }
    let seconds = item.fields.get("seconds").and_then(Value::as_u64).unwrap_or(model.default_seconds.into());
    let size = text("size").unwrap_or(&model.default_size);
    if !model.seconds.iter().any(|offered| u64::from(*offered) == seconds) {
        let offered = model.seconds.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        found.append(&mut wrong("seconds", format!("must be one of {offered} for `{name}`")));
    }
    if !model.sizes.iter().any(|offered| offered == size) {
        found.append(&mut wrong("size", format!("must be one of {} for `{name}`", model.sizes.join(", "))));
    }
    if !found.is_empty() {
        return Err(found);
    }
    let price = model.prices.iter().find(|price| u64::from(price.seconds) == seconds && price.size == size);
    match price {
        Some(price) => Ok(((name.to_owned(), price.seconds, price.size.clone()), price.price_credits)),
        None => Err(wrong("seconds", format!("`{name}` has no price for {seconds} s at {size}"))),
    }
}
