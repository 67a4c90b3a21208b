//! `freezeframe limits`: what tenants, provider accounts and models may use, changed while everything runs.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{self, Table, amount};
use super::provider::actor;
use crate::config::Config;
use crate::control::Controls;
use crate::control::words::{self, Whose, shown_subject};
use crate::domain::TenantId;
use crate::limits::{Changed, Limit, LimitKey, Rule, Scope};
use crate::operators::{self, Said};
use crate::scheduler::{Explanation, RuleState, Source};
use crate::service::{self, Store};

const EXAMPLES: &str = "\
Examples:
  freezeframe limits set tenant=ten_01J... videos_per_minute=600 \\
      --until 2027-01-08T18:00:00Z --reason \"launch week\"
  freezeframe limits set tenant=ten_01J... requests_per_minute=6000 --reason \"their dashboard\"
  freezeframe limits set account=sora requests_per_minute=40 --reason \"their new tier\"
  freezeframe limits set account=veo spend_credits=5000 spend_window_secs=600 --reason \"their tier 2\"
  freezeframe limits set model=veo-3.1 max_in_flight=20 --for 12h --reason \"their incident\"
  freezeframe limits explain tenant=ten_01J... model=sora-2";

/// See, change and explain the limits of tenants, accounts and models.
///
/// A change holds in the whole cluster within two seconds, over restarts and deploys. The settings file only says what holds
/// where nobody set anything.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct LimitsArgs {
    #[command(subcommand)]
    command: LimitsCommand,
}

#[derive(Subcommand)]
enum LimitsCommand {
    /// Show every limit that somebody set
    List(ListArgs),
    /// Set limits of a tenant, an account or a model
    Set(SetArgs),
    /// Take limits away: what stood behind them holds again
    Clear(ClearArgs),
    /// Say what decides when a tenant's next video of a model starts
    Explain(ExplainArgs),
}

#[derive(Args)]
struct ListArgs {
    /// Print one JSON array instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct SetArgs {
    /// Whose: tenant=ID, account=NAME or model=NAME
    #[arg(value_name = "WHOSE")]
    whose: Whose,
    /// What: videos_per_minute (tenants, models), requests_per_minute (tenants, accounts), max_in_flight, weight (tenants),
    /// spend_credits or spend_window_secs (accounts)
    #[arg(value_name = "RULE=N", required = true, value_parser = rule_and_value)]
    values: Vec<(Rule, u32)>,
    /// Until when; then what was there before holds again
    #[arg(long, value_name = "TIME", value_parser = words::moment_to_come)]
    until: Option<DateTime<Utc>>,
    /// For how long, such as 90m, 12h or 3d
    #[arg(long = "for", value_name = "DURATION", value_parser = words::span, conflicts_with = "until")]
    span: Option<TimeDelta>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args)]
struct ClearArgs {
    /// Whose: tenant=ID, account=NAME or model=NAME
    #[arg(value_name = "WHOSE")]
    whose: Whose,
    /// What; every limit of theirs when nothing is named
    #[arg(value_name = "RULE", value_parser = words::rule)]
    rules: Vec<Rule>,
    /// Only those with an end
    #[arg(long)]
    temporary: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args)]
struct ExplainArgs {
    /// tenant=ID and model=NAME
    #[arg(value_name = "TENANT_AND_MODEL", num_args = 2, required = true)]
    of: Vec<Whose>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct ChangeArgs {
    /// Why, for those who find it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who says so [default: the user that runs this command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Print one JSON array instead of text
    #[arg(long)]
    pub(super) json: bool,
}

fn rule_and_value(text: &str) -> Result<(Rule, u32), String> {
    let (name, value) = text.split_once('=').ok_or("must be RULE=N, such as videos_per_minute=600")?;
    let value: u64 = value.parse().map_err(|_| format!("{value:?} is no whole number"))?;
    let rule = words::rule(name)?;
    Ok((rule, words::value(rule, Some(value))?))
}

pub(super) async fn run(config: Config, args: LimitsArgs) -> Result<ExitCode> {
    let store = Store::open(&config).await?;
    let controls = service::controls(&config, store.connect("limits", 1, false).await?)?;
    let text = match args.command {
        LimitsCommand::List(args) => list(&controls, args.json).await,
        LimitsCommand::Set(args) => set(&controls, args).await,
        LimitsCommand::Clear(args) => clear(&controls, args).await,
        LimitsCommand::Explain(args) => explain(&controls, args).await,
    };
    controls.close().await;
    store.release().await?;
    output::line(&text?)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(controls: &Controls, as_json: bool) -> Result<String> {
    let all = controls.limits().await.context("the limits could not be read")?;
    if as_json {
        let shown = all.iter().map(|(limit, holds)| {
            let mut object = json!(limit);
            object["subject"] = json!(shown_subject(limit.key.scope, &limit.key.subject));
            object["in_force"] = json!(holds);
            object
        });
        return Ok(Value::from(shown.collect::<Vec<_>>()).to_string());
    }
    if all.is_empty() {
        return Ok("nobody has set a limit: the settings hold, and what each tenant was made with".to_owned());
    }
    let mut table = Table::new(["whose", "rule", ">limit", "until", "set by", "why"]);
    for (limit, holds) in &all {
        let until = limit.expires_at.map_or_else(|| "-".to_owned(), moment);
        let until = if *holds { until } else { format!("{until} (over)") };
        let Limit { key, value, set_by, reason, .. } = limit;
        table.row([
            whose(key),
            key.rule.name().to_owned(),
            amount((*value).into()),
            until,
            set_by.clone(),
            reason.clone(),
        ]);
    }
    Ok(table.render())
}

async fn set(controls: &Controls, args: SetArgs) -> Result<String> {
    let said = said(&args.change)?;
    let mut named = BTreeSet::new();
    for (rule, _) in &args.values {
        if !named.insert(*rule) {
            bail!("{} is given twice", rule.name());
        }
        held_by(&args.whose, *rule)?;
    }
    let until = args.until.or_else(|| args.span.map(|span| Utc::now() + span));
    let changed = controls.set_limits(&args.whose, &args.values, until, &said).await;
    Ok(tell(&changed.context("no limit was changed")?, args.change.json))
}

async fn clear(controls: &Controls, args: ClearArgs) -> Result<String> {
    let said = said(&args.change)?;
    args.rules.iter().try_for_each(|rule| held_by(&args.whose, *rule))?;
    let cleared = controls.clear_limits(&args.whose, &args.rules, args.temporary, &said).await;
    let cleared = cleared.context("not every limit was cleared")?;
    if cleared.is_empty() && !args.change.json {
        return Ok("there was nothing to clear".to_owned());
    }
    Ok(tell(&cleared, args.change.json))
}

pub(super) fn said(change: &ChangeArgs) -> Result<Said> {
    let reason = operators::reason(&change.reason).map_err(|why| anyhow!("--reason {why}"))?;
    Ok(Said { by: actor(change.by.clone()), reason })
}

fn held_by(whose: &Whose, rule: Rule) -> Result<()> {
    words::rule_of(whose.scope, rule).map_err(|why| anyhow!("{} {why}", rule.name()))?;
    Ok(())
}

/// What was changed, as text or as JSON.
pub(super) fn tell(changed: &[(LimitKey, Changed)], as_json: bool) -> String {
    if as_json {
        let shown = changed.iter().map(|(_, Changed { before, after })| json!({ "before": before, "after": after }));
        return Value::from(shown.collect::<Vec<_>>()).to_string();
    }
    let shown = |row: &Option<Value>| match row {
        Some(row) => {
            let until = row["expires_at"].as_str().and_then(|until| DateTime::parse_from_rfc3339(until).ok());
            let until = until.map(|until| format!(" until {}", moment(until.to_utc()))).unwrap_or_default();
            format!("{}{until}", amount(row["value"].as_i64().unwrap_or_default()))
        }
        None => "not set".to_owned(),
    };
    let line = |(key, Changed { before, after }): &(LimitKey, Changed)| {
        format!("{} {}: {} -> {}", whose(key), key.rule.name(), shown(before), shown(after))
    };
    changed.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn whose(key: &LimitKey) -> String {
    format!("{}={}", key.scope.name(), shown_subject(key.scope, &key.subject))
}

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

async fn explain(controls: &Controls, args: ExplainArgs) -> Result<String> {
    let of = |scope: Scope| args.of.iter().find(|whose| whose.scope == scope);
    let (Some(tenant), Some(model)) = (of(Scope::Tenant), of(Scope::Model)) else {
        bail!("name a tenant and a model: tenant=ID model=NAME");
    };
    let tenant = TenantId::from_bare(&tenant.subject)?;
    let found = controls.explain(tenant, &model.subject).await.context("nothing was explained")?;
    Ok(if args.json { json!(found).to_string() } else { report(&found) })
}

fn report(found: &Explanation) -> String {
    let mut table = Table::new(["whose", "rule", ">limit", ">used", "free", "from"]);
    let mut row = |state: &RuleState| {
        let key = LimitKey { scope: state.scope, subject: state.subject.clone(), rule: state.rule };
        let free = match (state.is_full(), state.free_at) {
            (false, _) => "now".to_owned(),
            (true, Some(at)) => moment(at),
            (true, None) if state.rule == Rule::Paused => "when resumed".to_owned(),
            (true, None) => "when a video ends".to_owned(),
        };
        table.row([
            whose(&key),
            state.rule.name().to_owned(),
            amount(state.limit.into()),
            amount(state.used.into()),
            free,
            source(&state.source),
        ]);
    };
    found.rules.iter().for_each(&mut row);
    found.routes.iter().flat_map(|route| &route.rules).for_each(&mut row);
    let mut text = table.render();
    for route in &found.routes {
        if let Some(shut) = route.shut {
            text.push_str(&format!("\naccount {} takes nothing new: {}", route.account, shut.name()));
        }
    }
    text.push_str(&format!("\n{} waiting, {} worker slots free", amount(found.waiting), amount(found.free_slots)));
    if found.waiting_paused > 0 {
        text.push_str(&format!("\n{} of them in paused batches", amount(found.waiting_paused)));
    }
    text.push_str(&match found.next_free {
        Some(at) if at <= Utc::now() => "\nno limit is in the way now".to_owned(),
        Some(at) => format!("\nno limit is in the way from {}", moment(at)),
        None if found.routes.is_empty() => {
            "\nthese settings lead the model to no account, so nothing is said of its routes".to_owned()
        }
        None => "\nsomething is full or shut, and nobody knows until when".to_owned(),
    });
    text
}

fn source(source: &Source) -> String {
    match source {
        Source::Settings => "the settings".to_owned(),
        Source::Tenant => "the tenant's beginning".to_owned(),
        Source::Set { by, reason, expires_at, .. } => {
            let until = expires_at.map(|until| format!(" until {}", moment(until))).unwrap_or_default();
            format!("{by}{until}: {reason}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_typed_as_a_rule_and_a_number() {
        assert_eq!(rule_and_value("max_in_flight=7"), Ok((Rule::MaxInFlight, 7)));
        for wrong in ["max_in_flight", "max_in_flight=0", "max_in_flight=-1", "max_in_flight=3000000000", "most=1"] {
            assert!(rule_and_value(wrong).is_err(), "{wrong}");
        }
    }
}
