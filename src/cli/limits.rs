//! `freezeframe limits`: what tenants, provider accounts and models may use, changed while everything runs.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{self, Table, amount};
use super::provider::actor;
use crate::config::Config;
use crate::db::Database;
use crate::domain::TenantId;
use crate::limits::{self, Changed, Limit, LimitKey, Rule, Scope};
use crate::scheduler::{self, Asked, Explanation, RuleState, Source};
use crate::service::{self, Store};
use crate::tenants;

const EXAMPLES: &str = "\
Examples:
  freezeframe limits set tenant=ten_01J... videos_per_minute=600 \\
      --until 2027-01-08T18:00:00Z --reason \"launch week\"
  freezeframe limits set tenant=ten_01J... requests_per_minute=6000 --reason \"their dashboard\"
  freezeframe limits set account=sora requests_per_minute=40 --reason \"their new tier\"
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
    /// What: videos_per_minute (tenants, models), requests_per_minute (tenants, accounts) or max_in_flight
    #[arg(value_name = "RULE=N", required = true, value_parser = rule_and_value)]
    values: Vec<(Rule, u32)>,
    /// Until when; then what was there before holds again
    #[arg(long, value_name = "TIME", value_parser = moment_to_come)]
    until: Option<DateTime<Utc>>,
    /// For how long, such as 90m, 12h or 3d
    #[arg(long = "for", value_name = "DURATION", value_parser = span, conflicts_with = "until")]
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
    #[arg(value_name = "RULE", value_parser = rule)]
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
struct ChangeArgs {
    /// Why, for those who find it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who says so [default: the user that runs this command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Print one JSON array instead of text
    #[arg(long)]
    json: bool,
}

/// `SCOPE=SUBJECT`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Whose {
    scope: Scope,
    /// As the database names it.
    subject: String,
}

impl FromStr for Whose {
    type Err = String;

    fn from_str(text: &str) -> Result<Whose, String> {
        let wrong = || format!("{text:?} is not tenant=ID, account=NAME or model=NAME");
        let (scope, subject) = text.split_once('=').ok_or_else(wrong)?;
        let scope = Scope::from_name(scope).ok_or_else(wrong)?;
        if subject.is_empty() {
            return Err(wrong());
        }
        let subject = match scope {
            Scope::Tenant => subject.parse::<TenantId>().map_err(|error| error.to_string())?.bare(),
            Scope::Account | Scope::Model => subject.to_owned(),
        };
        Ok(Whose { scope, subject })
    }
}

fn rule(text: &str) -> Result<Rule, String> {
    Rule::from_name(text)
        .ok_or_else(|| format!("{text:?} is no rule; rules are {}", Rule::ALL.map(Rule::name).join(", ")))
}

fn rule_and_value(text: &str) -> Result<(Rule, u32), String> {
    let (name, value) = text.split_once('=').ok_or("must be RULE=N, such as videos_per_minute=600")?;
    let value: u32 = value.parse().map_err(|_| format!("{value:?} is no whole number"))?;
    if value == 0 || i32::try_from(value).is_err() {
        return Err(format!("must be from 1 to {}", i32::MAX));
    }
    Ok((rule(name)?, value))
}

fn moment_to_come(text: &str) -> Result<DateTime<Utc>, String> {
    let at = DateTime::parse_from_rfc3339(text).map_err(|_| "must be a time like 2027-01-08T18:00:00Z".to_owned())?;
    if at <= Utc::now() { Err("is in the past".to_owned()) } else { Ok(at.to_utc()) }
}

fn span(text: &str) -> Result<TimeDelta, String> {
    let wrong = || "must be a whole number of m, h or d, such as 90m".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: i64 = number.parse().map_err(|_| wrong())?;
    let span = match unit {
        "m" => TimeDelta::try_minutes(number),
        "h" => TimeDelta::try_hours(number),
        "d" => TimeDelta::try_days(number),
        _ => None,
    };
    span.filter(|span| *span > TimeDelta::zero() && *span <= TimeDelta::days(3_660)).ok_or_else(wrong)
}

pub(super) async fn run(config: Config, args: LimitsArgs) -> Result<ExitCode> {
    let store = Store::open(&config).await?;
    let db = store.connect("limits", 1, false).await?;
    let text = match args.command {
        LimitsCommand::List(args) => list(&db, args.json).await,
        LimitsCommand::Set(args) => set(&config, &db, args).await,
        LimitsCommand::Clear(args) => clear(&config, &db, args).await,
        LimitsCommand::Explain(args) => explain(&config, &db, args).await,
    };
    db.close().await;
    store.release().await?;
    output::line(&text?)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(db: &Database, as_json: bool) -> Result<String> {
    let all = limits::all(&mut *db.pool().acquire().await?).await.context("the limits could not be read")?;
    if as_json {
        let shown = all.iter().map(|(limit, holds)| {
            let mut object = json!(limit);
            object["subject"] = json!(shown_subject(&limit.key));
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

async fn set(config: &Config, db: &Database, args: SetArgs) -> Result<String> {
    let reason = reason(&args.change)?;
    known(config, db, &args.whose).await?;
    let mut named = BTreeSet::new();
    let mut values = Vec::new();
    for (rule, value) in args.values {
        if !named.insert(rule) {
            bail!("{} is given twice", rule.name());
        }
        values.push((key(&args.whose, rule)?, value));
    }
    let expires_at = args.until.or_else(|| args.span.map(|span| Utc::now() + span));
    let changed = limits::set(db, &values, expires_at, (&actor(args.change.by), &reason)).await;
    let changed = changed.context("no limit was changed")?;
    let told: Vec<(LimitKey, Changed)> = values.into_iter().map(|(key, _)| key).zip(changed).collect();
    Ok(tell(&told, args.change.json))
}

async fn clear(config: &Config, db: &Database, args: ClearArgs) -> Result<String> {
    let reason = reason(&args.change)?;
    known(config, db, &args.whose).await?;
    let rules = if args.rules.is_empty() { args.whose.scope.rules().to_vec() } else { args.rules };
    let keys: Vec<LimitKey> = rules.into_iter().map(|rule| key(&args.whose, rule)).collect::<Result<_>>()?;
    let by = actor(args.change.by);
    let mut cleared = limits::clear(db, &keys, true, (&by, &reason)).await.context("no limit was changed")?;
    if !args.temporary {
        cleared.extend(
            limits::clear(db, &keys, false, (&by, &reason)).await.context("only limits with an end were cleared")?,
        );
    }
    if cleared.is_empty() && !args.change.json {
        return Ok("there was nothing to clear".to_owned());
    }
    Ok(tell(&cleared, args.change.json))
}

fn reason(change: &ChangeArgs) -> Result<String> {
    let reason = change.reason.trim();
    if reason.is_empty() {
        bail!("--reason must say why the limit is changed");
    }
    Ok(reason.to_owned())
}

fn key(whose: &Whose, rule: Rule) -> Result<LimitKey> {
    let rules = whose.scope.rules();
    if !rules.contains(&rule) {
        let names = rules.iter().map(|rule| rule.name()).collect::<Vec<_>>().join(" and ");
        bail!("{} is no rule of {}s; theirs are {names}", rule.name(), whose.scope.name());
    }
    Ok(LimitKey { scope: whose.scope, subject: whose.subject.clone(), rule })
}

/// A slip in a name must not limit nothing.
async fn known(config: &Config, db: &Database, whose: &Whose) -> Result<()> {
    let names: Vec<&str> = match whose.scope {
        Scope::Tenant => {
            let id = TenantId::from_bare(&whose.subject)?;
            let found = tenants::exists(&mut *db.pool().acquire().await?, id).await;
            if !found.context("the tenants could not be read")? {
                bail!("there is no tenant {id}");
            }
            return Ok(());
        }
        Scope::Account => config.providers.iter().map(|account| account.name.as_str()).collect(),
        Scope::Model => config.models.iter().map(|model| model.name.as_str()).collect(),
    };
    if names.contains(&whose.subject.as_str()) {
        return Ok(());
    }
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    bail!("there is no {} {:?} in these settings; known are: {known}", whose.scope.name(), whose.subject)
}

fn tell(changed: &[(LimitKey, Changed)], as_json: bool) -> String {
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

fn shown_subject(key: &LimitKey) -> String {
    match (key.scope, TenantId::from_bare(&key.subject)) {
        (Scope::Tenant, Ok(id)) => id.to_string(),
        _ => key.subject.clone(),
    }
}

fn whose(key: &LimitKey) -> String {
    format!("{}={}", key.scope.name(), shown_subject(key))
}

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

async fn explain(config: &Config, db: &Database, args: ExplainArgs) -> Result<String> {
    let of = |scope: Scope| args.of.iter().find(|whose| whose.scope == scope);
    let (Some(tenant), Some(model)) = (of(Scope::Tenant), of(Scope::Model)) else {
        bail!("name a tenant and a model: tenant=ID model=NAME");
    };
    known(config, db, tenant).await?;
    known(config, db, model).await?;
    let plan = service::route_plan(config)?;
    let tenant = TenantId::from_bare(&tenant.subject)?;
    let asked = Asked { tenant, model: &model.subject, plan: &plan, worker_dead_after: config.engine.dead_after };
    let found = scheduler::explain(db, &asked).await.context("the limits could not be read")?;
    let found = found.with_context(|| format!("there is no tenant {tenant}"))?;
    Ok(if args.json { json!(found).to_string() } else { report(&found) })
}

fn report(found: &Explanation) -> String {
    let mut table = Table::new(["whose", "rule", ">limit", ">used", "free", "from"]);
    let mut row = |state: &RuleState| {
        let key = LimitKey { scope: state.scope, subject: state.subject.clone(), rule: state.rule };
        let free = match (state.is_full(), state.free_at) {
            (false, _) => "now".to_owned(),
            (true, Some(at)) => moment(at),
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
    fn what_is_typed_is_understood_or_refused_in_words() {
        let id = TenantId::generate();
        assert_eq!(format!("tenant={id}").parse(), Ok(Whose { scope: Scope::Tenant, subject: id.bare() }));
        assert_eq!("account=a=b".parse(), Ok(Whose { scope: Scope::Account, subject: "a=b".to_owned() }));
        for wrong in ["tenant", "tenant=", "tenant=x", "queue=x", "=x"] {
            assert!(wrong.parse::<Whose>().is_err(), "{wrong}");
        }
        assert_eq!(rule_and_value("max_in_flight=7"), Ok((Rule::MaxInFlight, 7)));
        for wrong in ["max_in_flight", "max_in_flight=0", "max_in_flight=-1", "max_in_flight=3000000000", "most=1"] {
            assert!(rule_and_value(wrong).is_err(), "{wrong}");
        }
        assert_eq!(span("90m"), Ok(TimeDelta::minutes(90)));
        for wrong in ["", "90", "h", "0m", "-1h", "99999d", "9ü"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        assert!(moment_to_come("2020-01-01T00:00:00Z").is_err() && moment_to_come("Friday").is_err());
    }

    #[test]
    fn each_scope_has_its_own_rules() {
        let whose = |scope| Whose { scope, subject: "x".to_owned() };
        assert!(key(&whose(Scope::Model), Rule::VideosPerMinute).is_ok());
        assert!(Rule::ALL.into_iter().all(|rule| key(&whose(Scope::Tenant), rule).is_ok()));
        let refused = key(&whose(Scope::Model), Rule::RequestsPerMinute).unwrap_err().to_string();
        assert!(refused.contains("videos_per_minute and max_in_flight"), "{refused}");
    }
}
