//! Everything that is needed to tell genuine calls from others, by account: made from the settings, without API keys.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anyhow::Context;

use super::{
    CallHead, CallbackAddresses, CallbackBase, CallbackNews, CallbackRefusal, KeySet, StandardWebhooks, Vendor,
};
use crate::config::{Config, ProviderConfig, ProviderKind};
use crate::domain::AttemptId;
use crate::providers::RegistryError;
use crate::providers::egress::Egress;
use crate::providers::fal::FalCallbacks;
use crate::providers::google::GoogleCallbacks;
use crate::providers::openai_videos::OpenaiCallbacks;

/// The accounts whose callbacks are taken, by name.
#[derive(Default)]
pub struct CallbackDesk {
    accounts: BTreeMap<String, Arc<CallbackAccount>>,
}

impl CallbackDesk {
    /// The accounts of the settings that take callbacks.
    ///
    /// # Errors
    /// [`RegistryError`] when a secret is missing here or is none, or when TLS cannot be set up.
    pub fn from_config(config: &Config, egress: &Egress, base: &CallbackBase) -> Result<CallbackDesk, RegistryError> {
        let mut desk = CallbackDesk::default();
        let mut problems = Vec::new();
        for account in &config.providers {
            let Some(addresses) = base.of_account(account) else { continue };
            match CallbackAccount::new(account, addresses, egress) {
                Ok(taken) => drop(desk.accounts.insert(account.name.clone(), Arc::new(taken))),
                Err(problem) => problems.push(format!("provider {:?}: {problem:#}", account.name)),
            }
        }
        if problems.is_empty() { Ok(desk) } else { Err(RegistryError(problems)) }
    }

    pub fn account(&self, name: &str) -> Option<Arc<CallbackAccount>> {
        self.accounts.get(name).cloned()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.accounts.keys().map(String::as_str)
    }
}

impl fmt::Debug for CallbackDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// One account's callbacks.
pub struct CallbackAccount {
    addresses: CallbackAddresses,
    vendor: Box<dyn Vendor>,
}

impl CallbackAccount {
    fn new(account: &ProviderConfig, addresses: CallbackAddresses, egress: &Egress) -> anyhow::Result<CallbackAccount> {
        let secret = match (&account.callbacks.secret, &account.callbacks.secret_env) {
            (Some(secret), _) => Some(StandardWebhooks::new(secret)?),
            (None, Some(variable)) => {
                anyhow::bail!("the environment variable {variable}, which should hold its webhook secret, is not set")
            }
            (None, None) => None,
        };
        let keys = account.callback_keys_url().map(|url| KeySet::new(url, egress)).transpose()?;
        let vendor: Box<dyn Vendor> = match &account.kind {
            ProviderKind::OpenaiVideos => Box::new(OpenaiCallbacks(secret.context("it has no webhook secret")?)),
            ProviderKind::Fal(_) => Box::new(FalCallbacks(keys.context("it has no keys")?)),
            ProviderKind::VeoGemini(_) | ProviderKind::GeminiOmni | ProviderKind::VeoVertex(..) => {
                let keys = keys.context("it has no keys")?;
                Box::new(GoogleCallbacks { addresses: addresses.clone(), keys, secret })
            }
        };
        Ok(CallbackAccount { addresses, vendor })
    }

    pub fn name(&self) -> &Arc<str> {
        &self.addresses.account
    }

    /// The attempt that a token of this account names; `None` for any other text.
    pub fn attempt_of(&self, token: &str) -> Option<AttemptId> {
        self.addresses.attempt_of(token)
    }

    /// Refuses what needs no body to be refused. A call that passes is not verified yet.
    ///
    /// # Errors
    /// [`CallbackRefusal`], never for want of keys.
    pub fn glance(&self, head: &CallHead<'_>) -> Result<(), CallbackRefusal> {
        self.vendor.glance(head)
    }

    /// What a call says; `None` when it is genuine and about something else than a video.
    ///
    /// # Errors
    /// [`CallbackRefusal`].
    pub async fn verify(&self, head: &CallHead<'_>, body: &[u8]) -> Result<Option<CallbackNews>, CallbackRefusal> {
        self.vendor.verify(head, body).await
    }
}
