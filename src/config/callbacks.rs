//! How the callbacks of an account are wanted: whether, and what their signatures are checked with.
//!
//! Always holds: what the kind of account cannot do is refused here; a secret never stands in the file; keys that are
//! fetched come over an encrypted connection or from this machine.

use std::collections::BTreeMap;

use url::{Host, Url};

use super::kinds::ProviderKind;
use super::reader::Section;
use crate::domain::Secret;

/// Where each vendor publishes the keys that it signs per-request callbacks with.
const FAL_KEYS: &str = "https://rest.fal.ai/.well-known/jwks.json";
const GOOGLE_KEYS: &str = "https://generativelanguage.googleapis.com/.well-known/jwks.json";
/// The same of a provider on loopback, on its own origin.
const LOCAL_KEYS: &str = "/.well-known/jwks.json";

/// The callbacks of one account.
#[derive(Clone, Debug, Default)]
pub struct CallbackConfig {
    /// What the file says; `None` leaves it to [`CallbackConfig::are_taken`].
    pub wanted: Option<bool>,
    /// The variable that holds the secret by which the vendor signs callbacks of a whole project.
    pub secret_env: Option<String>,
    /// The secret; `None` when its variable is not set here, which only a process with the API minds.
    pub secret: Option<Secret>,
    /// Where the vendor's public keys are; `None` for the vendor's own place.
    pub keys_url: Option<Url>,
}

/// How a kind of account can call back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offered {
    /// At an address that goes with each order, signed by keys that are published.
    per_request: bool,
    /// At one address for all, signed by a secret.
    per_project: bool,
}

fn offered(kind: &ProviderKind) -> Offered {
    let (per_request, per_project) = match kind {
        ProviderKind::OpenaiVideos => (false, true),
        ProviderKind::VeoGemini(_) | ProviderKind::GeminiOmni => (true, true),
        ProviderKind::VeoVertex(..) => (false, false),
        ProviderKind::Fal(_) => (true, false),
    };
    Offered { per_request, per_project }
}

impl CallbackConfig {
    /// Whether callbacks of this account are taken at an installation that the world reaches at `public_url`. Unless the
    /// file says it: where others can reach the address and it is encrypted, or the provider is on this machine; and there is
    /// something to check a signature with. Google's are a preview, and a project that has none may refuse an order that asks
    /// for them: they are taken only when the file says so.
    pub(super) fn are_taken(&self, (kind, base_url): (&ProviderKind, &Url), public_url: &Url) -> bool {
        let offered = offered(kind);
        let verifiable = offered.per_request || (offered.per_project && self.has_secret());
        let preview = matches!(kind, ProviderKind::VeoGemini(_) | ProviderKind::GeminiOmni);
        let safe = public_url.scheme() == "https" && is_reachable(public_url) && !preview;
        let reachable = safe || is_loopback(base_url);
        verifiable && self.wanted.unwrap_or(reachable)
    }

    /// Where the keys are that sign this account's per-request callbacks; `None` when it has none.
    pub(super) fn keys_of(&self, (kind, base_url): (&ProviderKind, &Url)) -> Option<Url> {
        if !offered(kind).per_request {
            return None;
        }
        let given = self.keys_url.clone();
        given.or_else(|| match kind {
            _ if is_loopback(base_url) => base_url.join(LOCAL_KEYS).ok(),
            ProviderKind::Fal(_) => Url::parse(FAL_KEYS).ok(),
            _ => Url::parse(GOOGLE_KEYS).ok(),
        })
    }

    fn has_secret(&self) -> bool {
        self.secret_env.is_some() || self.secret.is_some()
    }
}

/// Whether a URL leads to this machine, as it is written.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether others than this machine and its network may reach a URL, as it is written.
fn is_reachable(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name != "localhost",
        Some(Host::Ipv4(address)) => {
            !(address.is_loopback() || address.is_unspecified() || address.is_private() || address.is_link_local())
        }
        Some(Host::Ipv6(address)) => !(address.is_loopback() || address.is_unspecified()),
        None => false,
    }
}

pub(super) fn read(
    section: &mut Section<'_>,
    kind: Option<&ProviderKind>,
    variables: &BTreeMap<String, String>,
) -> CallbackConfig {
    let given = section.has("callbacks");
    let flag = section.flag("callbacks", false);
    let wanted = given.then_some(flag);
    let secret_env = section.text("webhook_secret_env");
    let keys_url = section.web_url("callback_keys_url");
    if keys_url.as_ref().is_some_and(|url| url.scheme() != "https" && !is_loopback(url)) {
        section.problem("callback_keys_url", "must start with https://");
    }
    if let Some(offered) = kind.map(offered) {
        if wanted == Some(true) && !offered.per_request && !offered.per_project {
            section.problem("callbacks", "cannot be true: this kind of account has none");
        } else if wanted == Some(true) && !offered.per_request && secret_env.is_none() {
            section.problem("callbacks", "needs webhook_secret_env for this kind of account");
        }
        if secret_env.is_some() && !offered.per_project {
            section.problem("webhook_secret_env", "is of no use for this kind of account");
        }
        if keys_url.is_some() && !offered.per_request {
            section.problem("callback_keys_url", "is of no use for this kind of account");
        }
    }
    let secret = secret_env.as_ref().and_then(|variable| variables.get(variable)).map(|text| Secret::new(text.trim()));
    CallbackConfig { wanted, secret_env, secret, keys_url }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    fn problems(lines: &str, top: &str) -> String {
        let text = format!(
            "{top}\n[[provider]]\nname = \"x\"\nbase_url = \"https://api.example.com/v1\"\nrequests_per_minute = 1\n\
             max_in_flight = 1\n{lines}\n[[model]]\nname = \"m\"\nprovider = \"x\"\nprice_credits = 1\nstandard_seconds = 4\n\
             seconds = [4]\nsizes = [\"1280x720\"]"
        );
        Config::from_sources(&text, []).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn what_a_kind_of_account_cannot_do_is_refused() {
        let https = "public_url = \"https://video.example.com\"";
        let omni = "kind = \"gemini_omni\"\napi_key_env = \"K\"\n";
        let openai = "kind = \"openai_videos\"\napi_key_env = \"K\"\n";
        let vertex = "kind = \"veo_vertex\"\nproject = \"p\"\nlocation = \"l\"\n";
        for (lines, top, wrong) in [
            (format!("{omni}callbacks = true"), https, ""),
            (format!("{omni}callbacks = true"), "", "`public_url`"),
            (format!("{omni}callbacks = false\nwebhook_secret_env = \"S\""), "", ""),
            (format!("{openai}callbacks = true"), https, "`provider \"x\".callbacks`"),
            (format!("{openai}callbacks = true\nwebhook_secret_env = \"S\""), https, ""),
            (
                format!("{openai}callback_keys_url = \"https://k.example.com\""),
                https,
                "`provider \"x\".callback_keys_url`",
            ),
            (
                format!("{omni}callback_keys_url = \"http://k.example.com\""),
                https,
                "`provider \"x\".callback_keys_url`",
            ),
            (format!("{vertex}callbacks = true"), https, "`provider \"x\".callbacks`"),
            (format!("{vertex}webhook_secret_env = \"S\""), https, "`provider \"x\".webhook_secret_env`"),
        ] {
            let found = problems(&lines, top);
            assert!(found.contains(wrong) && found.is_empty() == wrong.is_empty(), "{lines} {top}: {found}");
        }
    }

    #[test]
    fn callbacks_are_taken_where_they_can_be_checked_and_the_address_is_safe() {
        let of_kind = |kind: &str, base: &str, lines: &str| {
            let text = format!(
                "public_url = \"https://v.example.com\"\n[[provider]]\nname = \"x\"\nkind = \"{kind}\"\napi_key_env = \"K\"\nbase_url = \"{base}\"\n\
                 requests_per_minute = 1\nmax_in_flight = 1\n{lines}\n[[model]]\nname = \"m\"\nupstream = \"o/a\"\nprovider = \"x\"\n\
                 price_credits = 1\nstandard_seconds = 4\nseconds = [4]\nsizes = [\"1280x720\"]"
            );
            Config::from_sources(&text, []).unwrap().providers.remove(0)
        };
        let account = |base: &str, lines: &str| of_kind("gemini_omni", base, lines);
        let (https, http) = ("https://v.example.com".parse().unwrap(), "http://v.example.com".parse().unwrap());
        let fal =
            of_kind("fal", "https://queue.fal.run", "inputs = { \"o/a\" = { s = \"{seconds}\", r = \"{size}\" } }");
        assert!(fal.takes_callbacks(&https) && !fal.takes_callbacks(&http));
        let google = account("https://generativelanguage.googleapis.com/v1beta", "");
        assert!(!google.takes_callbacks(&https), "a preview that nobody asked for");
        assert!(
            account("https://generativelanguage.googleapis.com/v1beta", "callbacks = true").takes_callbacks(&https)
        );
        for here in
            ["https://0.0.0.0:8443", "https://127.0.0.1", "https://10.0.0.7", "https://localhost", "https://[::1]"]
        {
            assert!(!fal.takes_callbacks(&here.parse().unwrap()), "{here}");
        }
        assert_eq!(google.callback_keys_url().unwrap().as_str(), super::GOOGLE_KEYS);
        let local = account("http://127.0.0.1:9/omni/v1beta", "");
        assert!(local.takes_callbacks(&http));
        assert_eq!(local.callback_keys_url().unwrap().as_str(), "http://127.0.0.1:9/.well-known/jwks.json");
        assert!(!account("http://127.0.0.1:9/omni/v1beta", "callbacks = false").takes_callbacks(&https));
    }
}
