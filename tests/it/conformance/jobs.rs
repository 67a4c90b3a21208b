//! Scenarios of the job: what a poll says, and what it must not make of what it hears.

use anyhow::{bail, ensure};
use freezeframe::domain::FailureClass;
use freezeframe::emulator::{Fault, Hostile};
use freezeframe::providers::{BilledWhen, CancelOutcome, PollOutcome, ReadError};
use freezeframe::storage::StoreError;
use futures_util::future::try_join_all;

use super::stage::{KEY, LATENCY_MS, Stage};
use super::{Scenario, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario!(a_failed_job_has_its_class_and_what_it_costs),
    scenario!(odd_words_and_jumping_progress_are_no_end),
    scenario!(an_end_that_is_taken_back_comes_again),
    scenario!(a_late_success_is_one),
    scenario!(an_unknown_job_is_gone),
    scenario!(passing_faults_of_polls_pass),
    scenario!(a_poll_is_told_to_wait_or_refused),
    scenario!(polls_that_nobody_should_trust_end_nothing),
    scenario!(a_poll_in_other_types_is_understood),
    scenario!(what_it_can_do_is_what_it_does),
];

async fn a_failed_job_has_its_class_and_what_it_costs(stage: &Stage<'_>) -> anyhow::Result<()> {
    let billing = stage.provider.capabilities().billing;
    for (prompt, fault, class, billed) in [
        ("a moderated fox", Fault::JobModerated, FailureClass::Moderation, billing.moderated),
        ("a broken fox", Fault::JobFailed, FailureClass::ProviderFault, billing.failed),
    ] {
        stage.script(prompt, fault);
        let handle = stage.accepted(prompt).await?;
        stage.emulator.advance_clock(LATENCY_MS);
        match stage.provider.poll(&handle).await? {
            PollOutcome::Failed { class: told, billed: said, message } => {
                ensure!((told, said) == (class, billed), "{prompt}: {told:?}, billed {said:?}");
                ensure!(!message.is_empty() && !message.contains(prompt) && !message.contains(KEY), "{message}");
            }
            other => bail!("{prompt}: {other:?}"),
        }
    }
    Ok(())
}

async fn odd_words_and_jumping_progress_are_no_end(stage: &Stage<'_>) -> anyhow::Result<()> {
    for (prompt, fault) in [
        ("jumping", Fault::ProgressBackwards),
        ("worded", Fault::UnknownStatus),
        ("full", Fault::FullProgress),
        ("stalled", Fault::Stall),
    ] {
        stage.script(prompt, fault.clone());
        let handle = stage.accepted(prompt).await?;
        for _ in 0..5 {
            stage.emulator.advance_clock(LATENCY_MS / 6);
            match stage.provider.poll(&handle).await? {
                PollOutcome::Queued | PollOutcome::Running { .. } => {}
                other => bail!("{prompt}: {other:?}"),
            }
        }
        stage.emulator.advance_clock(LATENCY_MS);
        match (fault, stage.provider.poll(&handle).await?) {
            (Fault::Stall, PollOutcome::Running { .. }) => {}
            (_, PollOutcome::Succeeded { output }) => stage.stores_the_film(&output).await?,
            (_, other) => bail!("{prompt}, finished: {other:?}"),
        }
    }
    Ok(())
}

async fn an_end_that_is_taken_back_comes_again(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.script("a red fox", Fault::ContradictoryPolls);
    let handle = stage.accepted("a red fox").await?;
    stage.emulator.advance_clock(LATENCY_MS);
    let mut ends = 0;
    for _ in 0..6 {
        match stage.provider.poll(&handle).await? {
            PollOutcome::Succeeded { .. } => ends += 1,
            PollOutcome::Queued | PollOutcome::Running { .. } => {}
            other => bail!("{other:?}"),
        }
    }
    ensure!(ends == 3, "{ends} of 3 ends were seen");
    let output = stage.succeeded(&handle).await?;
    // a film that comes inside of the answer may just be taken back: an error, and there at the next try
    match stage.store(&output).await {
        Ok(_) => {}
        Err(StoreError::Source(_)) => stage.stores_the_film(&output).await?,
        Err(other) => bail!("{other}"),
    }
    Ok(())
}

async fn a_late_success_is_one(stage: &Stage<'_>) -> anyhow::Result<()> {
    let handle = stage.accepted("a red fox").await?;
    ensure!(matches!(stage.provider.poll(&handle).await?, PollOutcome::Queued | PollOutcome::Running { .. }));
    stage.emulator.advance_clock(50 * 60_000);
    let output = stage.succeeded(&handle).await?;
    stage.stores_the_film(&output).await
}

async fn an_unknown_job_is_gone(stage: &Stage<'_>) -> anyhow::Result<()> {
    let elsewhere = Stage::open(stage.surface, None).await?;
    stage.script("a vanished fox", Fault::Gone);
    for handle in [elsewhere.accepted("a red fox").await?, stage.accepted("a vanished fox").await?] {
        match stage.provider.poll(&handle).await? {
            PollOutcome::Gone { message } => ensure!(!message.contains(&handle.0), "the handle stands in {message:?}"),
            other => bail!("{other:?}"),
        }
    }
    Ok(())
}

async fn passing_faults_of_polls_pass(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.script("unreachable", Fault::PollErrors { first: 2, status: 503 });
    stage.script("deep once", Fault::HostilePolls { form: Hostile::Deep, first: Some(1) });
    for prompt in ["unreachable", "deep once"] {
        let handle = stage.accepted(prompt).await?;
        let mut polls = vec![stage.provider.poll(&handle).await];
        // what is too much is not asked for again within one poll
        if prompt == "deep once" && matches!(polls[0], Err(ReadError::Unavailable { .. })) {
            polls.push(stage.provider.poll(&handle).await);
        }
        match polls.pop() {
            Some(Ok(PollOutcome::Queued | PollOutcome::Running { .. })) => {}
            other => bail!("{prompt}: {other:?}"),
        }
    }
    Ok(())
}

async fn a_poll_is_told_to_wait_or_refused(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.script("limited", Fault::PollErrors { first: 1, status: 429 });
    let handle = stage.accepted("limited").await?;
    match stage.provider.poll(&handle).await {
        Err(ReadError::RateLimited { .. }) => {}
        other => bail!("429: {other:?}"),
    }
    match stage.with_key("another-key-3c1f")?.poll(&handle).await {
        Err(ReadError::Refused { class: FailureClass::Auth, .. }) => Ok(()),
        other => bail!("a wrong key: {other:?}"),
    }
}

/// Before and after the end of the job: whatever is said, it is neither a success nor a failure of the job.
async fn polls_that_nobody_should_trust_end_nothing(stage: &Stage<'_>) -> anyhow::Result<()> {
    let mut handles = Vec::new();
    for form in [Hostile::Huge, Hostile::Deep, Hostile::WrongTypes, Hostile::Nulls, Hostile::Missing] {
        let prompt = format!("hostile {form:?}");
        stage.script(&prompt, Fault::HostilePolls { form, first: None });
        handles.push((form, stage.accepted(&prompt).await?));
    }
    stage.emulator.advance_clock(LATENCY_MS);
    let polls = handles.iter().map(|(form, handle)| async move {
        match stage.provider.poll(handle).await {
            Err(ReadError::Unavailable { .. }) | Ok(PollOutcome::Queued | PollOutcome::Running { .. }) => Ok(()),
            other => bail!("{form:?}: {other:?}"),
        }
    });
    try_join_all(polls).await?;
    let (poured, allowed) = (stage.emulator.poured_bytes(), stage.surface.endless_poll_bytes());
    ensure!(poured < allowed, "{poured} bytes of an endless answer were taken, {allowed} are allowed");
    Ok(())
}

async fn a_poll_in_other_types_is_understood(stage: &Stage<'_>) -> anyhow::Result<()> {
    let fault = Fault::HostilePolls { form: Hostile::Swapped, first: None };
    let output = stage.finished("a red fox", Some(fault)).await?;
    stage.stores_the_film(&output).await
}

async fn what_it_can_do_is_what_it_does(stage: &Stage<'_>) -> anyhow::Result<()> {
    let capabilities = stage.provider.capabilities();
    let running = stage.accepted("a red fox").await?;
    let cancelled = stage.provider.cancel(&running).await;
    let expected = if capabilities.cancel { CancelOutcome::Cancelled } else { CancelOutcome::Unsupported };
    ensure!(cancelled == expected, "{cancelled:?}");
    let finished = stage.accepted("a finished fox").await?;
    stage.emulator.advance_clock(LATENCY_MS);
    if capabilities.cancel {
        match stage.provider.poll(&running).await? {
            PollOutcome::Failed { billed, .. } => ensure!(billed == capabilities.billing.cancelled, "{billed:?}"),
            PollOutcome::Gone { .. } => {}
            other => bail!("cancelled: {other:?}"),
        }
        let late = stage.provider.cancel(&finished).await;
        ensure!(late == CancelOutcome::TooLate, "{late:?}");
    }
    let output = stage.succeeded(&finished).await?;
    stage.stores_the_film(&output).await?;
    // a provider that bills on success cannot bill for a job that it refused
    if capabilities.billing.when == BilledWhen::OnSuccess {
        ensure!(capabilities.billing.failed != freezeframe::providers::Billed::Yes, "{:?}", capabilities.billing);
    }
    Ok(())
}
