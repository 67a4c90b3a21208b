//! The play: one order, watched to its end, and then held against everything that was promised.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ulid::Ulid;

use super::display::Screen;
use super::outcome::{Outcome, Provided};
use super::prompts;
use super::stage::Stage;
use crate::billing;
use crate::cli::client::{Answer, Batch};

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Retries of a provider's fault take 15 to 30 seconds; much more than that is a fault of ours.
const PATIENCE: Duration = Duration::from_secs(180);
/// Of a random id: enough to tell two demos apart.
const TAKE_CHARS: usize = 6;
const WEBHOOK_PATIENCE: Duration = Duration::from_secs(30);

/// Orders the batch and follows it to the verified webhook.
pub(super) async fn play(stage: &mut Stage, screen: &mut Screen) -> Result<Outcome> {
    let wallet_before = stage.api.wallet().await?.value;
    let key = format!("demo-{}", Ulid::generate());
    let take = format!("take {}", &key[key.len() - TAKE_CHARS..]);
    let order = prompts::order(&stage.receiver.url(), &take);
    let began = Instant::now();
    let accepted = stage.api.submit(order.to_string().into(), &key).await.context("the order")?.receipt.value;
    screen.ordered(&accepted, began.elapsed())?;
    let batch = follow(stage, screen, &accepted.batch_id, began).await?;
    let event = match tokio::time::timeout(WEBHOOK_PATIENCE, stage.receiver.verified()).await {
        Ok(event) => Some(event?),
        Err(_) => None,
    };
    let seconds = began.elapsed().as_secs_f64();
    let videos = values(stage.api.videos(&accepted.batch_id, None).await?);
    let file_fault = match videos.iter().find_map(|video| video.output.as_ref()) {
        Some(output) => stage.api.check_file(output).await.err().map(|error| format!("{error:#}")),
        None => Some("there is none".to_owned()),
    };
    Ok(Outcome {
        batch,
        videos,
        entries: values(stage.api.ledger(&accepted.batch_id).await?),
        accepted,
        wallet_before,
        wallet_after: stage.api.wallet().await?.value,
        reconciled: billing::reconcile(&stage.db).await?,
        provider: Provided::of(&stage.emulator.book(), &take),
        event,
        file_fault,
        seconds,
    })
}

async fn follow(stage: &Stage, screen: &mut Screen, id: &str, began: Instant) -> Result<Batch> {
    loop {
        let batch = stage.api.batch(id).await?.value;
        let videos = values(stage.api.videos(id, None).await?);
        screen.progress(&batch, &videos, began.elapsed())?;
        if batch.status.has_ended() {
            screen.end_progress();
            return Ok(batch);
        }
        if began.elapsed() > PATIENCE {
            screen.end_progress();
            bail!("the batch {id} has not ended after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn values<T>(answers: Vec<Answer<T>>) -> Vec<T> {
    answers.into_iter().map(|answer| answer.value).collect()
}
