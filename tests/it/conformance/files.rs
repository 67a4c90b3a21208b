//! Scenarios of the finished file: what arrives is the film, or is refused, and the key stays at home.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use bytes::Bytes;
use freezeframe::emulator::{Detour, Fault, OddPicture};
use freezeframe::providers::{FetchError, ReadError};
use freezeframe::storage::{ImageKind, StoreError};
use futures_util::TryStreamExt;

use super::stage::Stage;
use super::{Scenario, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario!(a_file_that_is_no_film_is_refused),
    scenario!(a_file_that_breaks_off_once_is_fetched_again),
    scenario!(a_file_that_is_missing_is_an_error),
    scenario!(a_file_that_has_expired_is_gone),
    scenario!(a_file_without_end_fills_nothing),
    scenario!(a_file_that_trickles_is_given_up),
    scenario!(a_redirect_gets_no_key),
    scenario!(a_redirect_to_a_forbidden_address_is_refused_at_once),
    scenario!(a_picture_is_there_where_it_is_promised_and_only_there),
];

async fn a_file_that_is_no_film_is_refused(stage: &Stage<'_>) -> anyhow::Result<()> {
    for (prompt, fault) in [
        ("empty", Fault::EmptyBody { first: None }),
        ("a page", Fault::NotAVideo { first: None }),
        ("short", Fault::ShortBody { first: None }),
    ] {
        let output = stage.finished(prompt, Some(fault)).await?;
        match stage.store(&output).await {
            Err(StoreError::NotAVideo(_) | StoreError::Length { .. } | StoreError::Source(_)) => {}
            other => bail!("{prompt}: {other:?}"),
        }
    }
    Ok(())
}

async fn a_file_that_breaks_off_once_is_fetched_again(stage: &Stage<'_>) -> anyhow::Result<()> {
    if !stage.surface.has_links() {
        return Ok(());
    }
    let output = stage.finished("a red fox", Some(Fault::ShortBody { first: Some(1) })).await?;
    ensure!(stage.store(&output).await.is_err(), "half of a film was stored");
    stage.stores_the_film(&output).await
}

async fn a_file_that_is_missing_is_an_error(stage: &Stage<'_>) -> anyhow::Result<()> {
    if !stage.surface.has_links() {
        return Ok(());
    }
    let output = stage.finished("a red fox", Some(Fault::MissingFile)).await?;
    match stage.store(&output).await {
        Err(StoreError::Source(_)) => Ok(()),
        other => bail!("{other:?}"),
    }
}

async fn a_file_that_has_expired_is_gone(stage: &Stage<'_>) -> anyhow::Result<()> {
    if !stage.surface.has_links() {
        return Ok(());
    }
    let output = stage.finished("a red fox", Some(Fault::ExpiredLink)).await?;
    // the emulator's clock was moved, ours was not
    let output = freezeframe::providers::Output {
        expires_at: output.expires_at.map(|_| chrono::Utc::now() - chrono::TimeDelta::seconds(1)),
        ..output
    };
    match stage.store(&output).await {
        Err(StoreError::Source(FetchError::Gone { .. })) => Ok(()),
        other => bail!("{other:?}"),
    }
}

/// 10 GB that are claimed, and a stream that claims nothing: nobody collects either.
async fn a_file_without_end_fills_nothing(stage: &Stage<'_>) -> anyhow::Result<()> {
    if !stage.surface.has_links() {
        return Ok(());
    }
    for (prompt, claimed_bytes) in [("ten gigabytes", Some(10_000_000_000)), ("without end", None)] {
        let output = stage.finished(prompt, Some(Fault::EndlessFile { claimed_bytes })).await?;
        match stage.store(&output).await {
            Err(StoreError::TooLarge { .. } | StoreError::NotAVideo(_)) => {}
            other => bail!("{prompt}: {other:?}"),
        }
    }
    let poured = stage.emulator.poured_bytes();
    ensure!(poured < 128 << 20, "{poured} bytes were taken, most of them to lie around");
    Ok(())
}

async fn a_file_that_trickles_is_given_up(stage: &Stage<'_>) -> anyhow::Result<()> {
    if !stage.surface.has_links() {
        return Ok(());
    }
    let output = stage.finished("a red fox", Some(Fault::TrickledFile { pause_ms: 1_000 })).await?;
    let began = Instant::now();
    match stage.store(&output).await {
        Err(StoreError::Source(_)) => {}
        other => bail!("{other:?}"),
    }
    ensure!(began.elapsed() < Duration::from_secs(40), "it was waited for {:?}", began.elapsed());
    Ok(())
}

async fn a_redirect_gets_no_key(stage: &Stage<'_>) -> anyhow::Result<()> {
    if !stage.surface.has_links() {
        return Ok(());
    }
    let output = stage.finished("a red fox", Some(Fault::RedirectedFile { to: Detour::OtherHost })).await?;
    stage.stores_the_film(&output).await?;
    let requests = stage.emulator.requests();
    let elsewhere: Vec<_> = requests.iter().filter(|request| request.other_host).collect();
    ensure!(!elsewhere.is_empty(), "the other host was not asked");
    ensure!(elsewhere.iter().all(|request| !request.key_seen), "the other host has seen the key: {elsewhere:?}");
    ensure!(requests.iter().any(|request| request.key_seen), "nobody has seen the key");
    Ok(())
}

async fn a_redirect_to_a_forbidden_address_is_refused_at_once(stage: &Stage<'_>) -> anyhow::Result<()> {
    if !stage.surface.has_links() {
        return Ok(());
    }
    for to in [Detour::Metadata, Detour::Circle] {
        let prompt = format!("{to:?}");
        let output = stage.finished(&prompt, Some(Fault::RedirectedFile { to })).await?;
        let began = Instant::now();
        match stage.store(&output).await {
            Err(StoreError::Source(FetchError::Read(ReadError::Refused { .. }))) => {}
            other => bail!("{to:?}: {other:?}"),
        }
        ensure!(began.elapsed() < Duration::from_secs(10), "{to:?} was waited for {:?}", began.elapsed());
    }
    Ok(())
}

async fn a_picture_is_there_where_it_is_promised_and_only_there(stage: &Stage<'_>) -> anyhow::Result<()> {
    let output = stage.finished("a red fox", None).await?;
    let picture = stage.provider.fetch_thumbnail(&output).await?;
    ensure!(picture.is_some() == stage.provider.capabilities().thumbnail, "{picture:?}");
    let Some(picture) = picture else { return Ok(()) };
    let announced = picture.length();
    let picture = picture.try_collect::<Vec<Bytes>>().await?.concat();
    ensure!(announced == Some(picture.len() as u64) && ImageKind::of(&picture).is_some(), "{announced:?}");

    let output = stage.finished("no picture", Some(Fault::OddThumbnail { form: OddPicture::Missing })).await?;
    let none = stage.provider.fetch_thumbnail(&output).await?;
    ensure!(none.is_none(), "{none:?} in place of a picture that is not there");
    Ok(())
}
