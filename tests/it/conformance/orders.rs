//! Scenarios of the submission: what is sent, what a refusal means, and what is never sent again.

use std::time::Duration;

use anyhow::{bail, ensure};
use bytes::Bytes;
use freezeframe::domain::{AttemptId, FailureClass, ImageFormat};
use freezeframe::emulator::{Fault, Hostile, Nth, Rule};
use freezeframe::providers::{FindOutcome, GenerationRequest, ReferenceImage, SubmitOutcome};
use ring::digest::{SHA256, digest};

use super::stage::{KEY, LATENCY_MS, Stage};
use super::{Scenario, scenario};
use crate::app::image_host::png;

pub const SCENARIOS: &[Scenario] = &[
    scenario!(a_video_is_ordered_watched_and_stored),
    scenario!(length_and_size_are_always_said),
    scenario!(an_image_arrives_bit_for_bit),
    scenario!(every_refusal_has_its_class),
    scenario!(a_wrong_key_is_our_fault),
    scenario!(an_outage_proves_nothing),
    scenario!(the_wish_to_wait_is_understood),
    scenario!(a_lost_answer_is_unknown_and_sent_once),
    scenario!(a_job_whose_answer_was_lost_is_found_and_finished),
    scenario!(a_lost_answer_is_repeated_under_its_key_alone),
    scenario!(an_answer_that_nobody_should_trust_is_unknown),
    scenario!(an_answer_in_other_types_is_understood),
    scenario!(without_a_connection_nothing_was_bought),
];

async fn a_video_is_ordered_watched_and_stored(stage: &Stage<'_>) -> anyhow::Result<()> {
    let output = stage.finished("a red fox", None).await?;
    stage.stores_the_film(&output).await?;
    let totals = stage.emulator.totals();
    ensure!((totals.accepted, totals.completed) == (1, 1), "{totals:?}");
    ensure!(stage.creates() == 1, "{} creates", stage.creates());
    Ok(())
}

async fn length_and_size_are_always_said(stage: &Stage<'_>) -> anyhow::Result<()> {
    for (seconds, size) in stage.surface.orders() {
        let request = GenerationRequest { seconds, size, ..stage.request("a red fox") };
        match stage.provider.submit(&request, stage.attempt).await {
            SubmitOutcome::Accepted { .. } => {}
            other => bail!("{seconds} s at {size}: {other:?}"),
        }
    }
    let on_the_wire = stage.orders_on_the_wire().into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(on_the_wire == stage.surface.orders(), "{on_the_wire:?}");
    let book = stage.emulator.book();
    let booked: Vec<_> = book.jobs.iter().map(|job| (job.seconds, job.size.parse().unwrap())).collect();
    ensure!(booked == stage.surface.orders(), "{booked:?}");
    Ok(())
}

async fn an_image_arrives_bit_for_bit(stage: &Stage<'_>) -> anyhow::Result<()> {
    let request = stage.request("a \"red\" fox\nin 雪");
    // longer than what is encoded at a time, and of no even length
    let bytes: Bytes = [png(request.size.width, request.size.height, 1), png(1, 1, 2)].concat().into();
    let image = ReferenceImage {
        bytes: &bytes,
        format: ImageFormat::Png,
        width: request.size.width,
        height: request.size.height,
    };
    let request = GenerationRequest { image: Some(image), ..request };
    match stage.provider.submit(&request, stage.attempt).await {
        SubmitOutcome::Accepted { .. } => {}
        other => bail!("{other:?}"),
    }
    let hash: String = digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let job = stage.emulator.book().jobs.remove(0);
    ensure!(job.image_sha256.as_deref() == Some(hash.as_str()), "another image arrived: {:?}", job.image_sha256);
    ensure!(job.prompt == request.prompt, "{:?} arrived", job.prompt);
    // what is no image is refused by the vendor, and that is the customer's to repair
    let other = Bytes::from_static(b"GIF89a");
    let image = ReferenceImage { bytes: &other, ..image };
    let request = GenerationRequest { image: Some(image), prompt: "a blue fox", ..request };
    is_refused(stage.provider.submit(&request, stage.attempt).await, FailureClass::InvalidInput, "a blue fox")
}

async fn every_refusal_has_its_class(stage: &Stage<'_>) -> anyhow::Result<()> {
    for (prompt, fault, class) in [
        ("a moderated fox", Fault::ModerationAtSubmit, FailureClass::Moderation),
        ("a limited fox", Fault::RateLimited { retry_after_secs: None }, FailureClass::RateLimited),
        ("a poor fox", Fault::QuotaExhausted, FailureClass::NoCredit),
        ("a retired fox", Fault::ModelNotFound, FailureClass::ModelRetired),
    ] {
        stage.script(prompt, fault);
        is_refused(stage.submit(prompt).await, class, prompt)?;
    }
    let unknown = GenerationRequest { upstream_model: "model-of-yesterday", ..stage.request("a red fox") };
    is_refused(stage.provider.submit(&unknown, stage.attempt).await, FailureClass::ModelRetired, "a red fox")?;
    let too_long = GenerationRequest { seconds: 599, ..stage.request("a red fox") };
    is_refused(stage.provider.submit(&too_long, stage.attempt).await, FailureClass::InvalidInput, "a red fox")?;
    let totals = stage.emulator.totals();
    ensure!(totals.accepted == 0, "{totals:?}");
    // what an adapter refuses by itself need not be asked
    ensure!((5..=6).contains(&stage.creates()), "{} creates", stage.creates());
    Ok(())
}

async fn a_wrong_key_is_our_fault(stage: &Stage<'_>) -> anyhow::Result<()> {
    let wrong = "another-key-3c1f";
    let outcome = stage.with_key(wrong)?.submit(&stage.request("a red fox"), stage.attempt).await;
    ensure!(!format!("{outcome:?}").contains(wrong), "the key stands in {outcome:?}");
    is_refused(outcome, FailureClass::Auth, "a red fox")
}

async fn an_outage_proves_nothing(stage: &Stage<'_>) -> anyhow::Result<()> {
    for status in [500, 503, 504] {
        let prompt = format!("outage {status}");
        stage.script(&prompt, Fault::ServerError { status });
        is_unknown(stage.submit(&prompt).await, &prompt)?;
    }
    ensure!(stage.creates() == 3, "{} creates", stage.creates());
    Ok(())
}

async fn the_wish_to_wait_is_understood(stage: &Stage<'_>) -> anyhow::Result<()> {
    for (prompt, fault, lowest, highest) in [
        ("in seconds", Fault::RateLimited { retry_after_secs: Some(7) }, 7, 7),
        ("until a date", Fault::RateLimitedUntil { secs: 40 }, 30, 41),
        ("in its own words", Fault::RateLimitedInBody { secs: 9 }, 9, 9),
    ] {
        stage.script(prompt, fault);
        let (lowest, highest) = (Duration::from_secs(lowest), Duration::from_secs(highest));
        match stage.submit(prompt).await {
            SubmitOutcome::Rejected { class: FailureClass::RateLimited, retry_after: Some(wait), .. } => {
                ensure!((lowest..=highest).contains(&wait), "{prompt}: {wait:?}");
            }
            other => bail!("{prompt}: {other:?}"),
        }
    }
    stage.script("without a word", Fault::RateLimited { retry_after_secs: None });
    match stage.submit("without a word").await {
        SubmitOutcome::Rejected { retry_after: None, .. } => Ok(()),
        other => bail!("without a word: {other:?}"),
    }
}

async fn a_lost_answer_is_unknown_and_sent_once(stage: &Stage<'_>) -> anyhow::Result<()> {
    for (prompt, fault, bought) in [
        ("lost before", Fault::DroppedBeforeAccept, false),
        ("lost after", Fault::DroppedAfterAccept, true),
        ("error after", Fault::ErrorAfterAccept { status: 500 }, true),
        ("overload after", Fault::ErrorAfterAccept { status: 503 }, true),
        ("gateway, taken", Fault::HtmlBadGateway { accepted: true }, true),
        ("gateway, not taken", Fault::HtmlBadGateway { accepted: false }, false),
        ("truncated", Fault::TruncatedAnswer, true),
        ("slow answer", Fault::SlowAnswer { ms: 60_000 }, true),
        ("slow body", Fault::SlowBody { ms: 60_000 }, true),
    ] {
        let before = stage.creates();
        stage.script(prompt, fault);
        is_unknown(stage.submit(prompt).await, prompt)?;
        ensure!(stage.creates() == before + 1, "{prompt}: {} creates", stage.creates() - before);
        match (stage.find(prompt).await?, stage.provider.capabilities().find) {
            (FindOutcome::Unsupported, false) => {}
            // a job that is found when it is finished cannot be found yet
            (FindOutcome::NotYet, true) => {}
            (FindOutcome::Candidates(found), true) if found.len() == usize::from(bought) => {}
            (found, _) => bail!("{prompt}, bought {bought}: {found:?}"),
        }
    }
    Ok(())
}

async fn a_job_whose_answer_was_lost_is_found_and_finished(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.script("a lost fox", Fault::DroppedAfterAccept);
    is_unknown(stage.submit("a lost fox").await, "a lost fox")?;
    stage.emulator.advance_clock(LATENCY_MS);
    match stage.find("a lost fox").await? {
        FindOutcome::Unsupported if !stage.provider.capabilities().find => Ok(()),
        FindOutcome::Candidates(found) if found.len() == 1 => {
            let output = stage.succeeded(&found[0].handle).await?;
            stage.stores_the_film(&output).await
        }
        other => bail!("{other:?}"),
    }
}

/// Where keys are honoured, the same order of the same attempt is the same job, and another attempt's is another; where they
/// are not, no key is sent and the adapter does not promise anything.
async fn a_lost_answer_is_repeated_under_its_key_alone(stage: &Stage<'_>) -> anyhow::Result<()> {
    ensure!(!stage.provider.capabilities().idempotency_key, "nobody said that this account honours keys");
    stage.accepted("a plain fox").await?;
    ensure!(stage.emulator.book().creates.iter().all(|create| create.idempotency_key.is_none()), "a key was sent");
    let Some(provider) = stage.honouring_keys()? else { return Ok(()) };
    ensure!(provider.capabilities().idempotency_key, "the account honours keys");
    stage.emulator.script(Rule::on_prompt("a lost fox", Fault::DroppedAfterAccept).nth(Nth::only(1)));
    let request = stage.request("a lost fox");
    is_unknown(provider.submit(&request, stage.attempt).await, "a lost fox")?;
    let SubmitOutcome::Accepted { handle } = provider.submit(&request, stage.attempt).await else {
        bail!("the same order under the same key was not answered by its job");
    };
    let book = stage.emulator.book();
    let bought: Vec<&str> = book.of_prompt("a lost fox").map(|job| job.id.as_str()).collect();
    ensure!(bought == [handle.0.as_str()], "{handle:?} and {bought:?}");
    // another order under that key is no job, and proves nothing about the first
    match provider.submit(&stage.request("a blue fox"), stage.attempt).await {
        SubmitOutcome::Rejected { class: FailureClass::InvalidInput, .. } => {}
        other => bail!("another order under a used key: {other:?}"),
    }
    match provider.submit(&request, AttemptId::generate()).await {
        SubmitOutcome::Accepted { handle: another } if another != handle => Ok(()),
        other => bail!("another attempt: {other:?}"),
    }
}

async fn an_answer_that_nobody_should_trust_is_unknown(stage: &Stage<'_>) -> anyhow::Result<()> {
    for form in [Hostile::Huge, Hostile::Deep, Hostile::WrongTypes, Hostile::Nulls, Hostile::Missing] {
        let prompt = format!("hostile {form:?}");
        stage.script(&prompt, Fault::HostileAnswer { form });
        is_unknown(stage.submit(&prompt).await, &prompt)?;
    }
    let poured = stage.emulator.poured_bytes();
    ensure!(poured < 64 << 20, "{poured} bytes of an endless answer were taken");
    ensure!(stage.creates() == 5, "{} creates", stage.creates());
    Ok(())
}

async fn an_answer_in_other_types_is_understood(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.script("a red fox", Fault::HostileAnswer { form: Hostile::Swapped });
    stage.accepted("a red fox").await.map(|_| ())
}

async fn without_a_connection_nothing_was_bought(stage: &Stage<'_>) -> anyhow::Result<()> {
    // an emulator that was there and is gone
    let other = Stage::open(stage.surface, None).await?;
    let provider = other.provider.clone();
    let request = stage.request("a red fox");
    // a read brings along what is fetched once, such as a token, and leaves no open connection for creates
    provider.poll(&stage.accepted("a red fox").await?).await?;
    other.emulator.stop().await?;
    is_refused(provider.submit(&request, stage.attempt).await, FailureClass::Network, "a red fox")
}

fn is_refused(outcome: SubmitOutcome, wanted: FailureClass, prompt: &str) -> anyhow::Result<()> {
    let shown = format!("{outcome:?}");
    ensure!(!shown.contains(KEY) && !shown.contains(prompt), "key or prompt stand in {shown}");
    match outcome {
        SubmitOutcome::Rejected { class, message, .. } if class == wanted && !message.is_empty() => Ok(()),
        other => bail!("{prompt:?} should be {wanted:?}: {other:?}"),
    }
}

fn is_unknown(outcome: SubmitOutcome, prompt: &str) -> anyhow::Result<()> {
    match outcome {
        SubmitOutcome::Unknown { cause } => {
            ensure!(!cause.is_empty() && !cause.contains(KEY) && !cause.contains(prompt), "{prompt}: {cause}");
            Ok(())
        }
        other => bail!("{prompt:?} may have been bought: {other:?}"),
    }
}
