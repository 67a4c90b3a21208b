//! Addresses, signatures and keys, against what the vendors' documents say and a server of our own for the keys.

use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use serde_json::{Value, json};

use super::super::egress::Egress;
use super::super::tests::{Server, reply};
use super::*;
use crate::config::{Config, ProviderKind};
use crate::domain::Secret;

const MASTER_KEY: &str = "5f1d0c4b7a29e8863344556677889900aabbccddeeff00112233445566778899";
const SECRET: &str = "whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c=";
/// A key of nothing.
const RSA_KEY: &str = include_str!("../google/test_key.pem");

fn base(public_url: &str) -> CallbackBase {
    CallbackBase::new(&MasterKey::from_hex(MASTER_KEY).unwrap(), public_url.parse().unwrap())
}

fn account(name: &str, kind: ProviderKind) -> ProviderConfig {
    let mut account = ProviderConfig::embedded(name, "http://127.0.0.1:9/v1".parse().unwrap(), Secret::new("key"));
    account.kind = kind;
    account
}

fn fal() -> ProviderKind {
    ProviderKind::Fal(crate::config::FalConfig::default())
}

/// The account's callbacks, whose keys are published at `keys`.
fn desk(kind: ProviderKind, keys: Option<&Server>, secret: Option<&str>) -> Arc<CallbackAccount> {
    let mut config = Config::from_sources("", []).unwrap();
    let mut account = account("main", kind);
    account.callbacks.keys_url = keys.map(|server| server.base.join("/keys").unwrap());
    account.callbacks.secret = secret.map(Secret::new);
    config.set_provider(account);
    let desk = CallbackDesk::from_config(&config, &Egress::new(), &base("https://v.example.com")).unwrap();
    desk.account("main").unwrap()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let header =
        |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    pairs.iter().map(header).collect()
}

fn news(job: &str) -> Result<Option<CallbackNews>, CallbackRefusal> {
    Ok(Some(CallbackNews { job: Some(job.to_owned()), ended: true }))
}

fn is_forged(verdict: &Result<Option<CallbackNews>, CallbackRefusal>) -> bool {
    matches!(verdict, Err(CallbackRefusal::Forged(_)))
}

#[test]
fn a_token_is_its_attempt_for_one_account_of_one_installation() {
    let at = |public: &str, name: &str| base(public).of_account(&account(name, fal())).unwrap();
    let addresses = at("https://v.example.com/base/", "fal");
    let attempt = AttemptId::generate();
    let token = addresses.token(attempt);
    assert_eq!(addresses.of_attempt(attempt).as_str(), format!("https://v.example.com/base/callbacks/fal/{token}"));
    assert_eq!(addresses.attempt_of(&token), Some(attempt));
    assert!(!token.contains(&attempt.bare()));
    assert_eq!(at("https://elsewhere.example.com", "fal").attempt_of(&token), Some(attempt));
    assert_eq!(at("https://v.example.com", "fal-2").attempt_of(&token), None, "another account's");
    let other = MasterKey::from_hex(&MASTER_KEY.replace('5', "6")).unwrap();
    let other = CallbackBase::new(&other, "https://v.example.com".parse().unwrap());
    assert_eq!(other.of_account(&account("fal", fal())).unwrap().attempt_of(&token), None, "another installation's");
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(addresses.attempt_of(&changed), None, "{changed}");
    }
    for short in ["", "AAAA", &token[..22], &format!("{token}AA"), "not base64 !"] {
        assert_eq!(addresses.attempt_of(short), None, "{short}");
    }
}

/// A known answer from a published test suite of this signature scheme.
#[tokio::test]
async fn a_known_standard_webhook_is_genuine_at_its_time_and_not_ten_minutes_later() {
    let hooks = StandardWebhooks::new(&Secret::new(SECRET)).unwrap();
    let body = br#"{"id": "evt_685c059ae3a481909bdc86819b066fb6", "object": "event", "created_at": 1750861210, "type": "response.completed", "data": {"id": "resp_123"}}"#;
    let good = "v1,gUAg4R2hWouRZqRQG4uJypNS8YK885G838+EHb4nKBY=";
    let verdict = |signature: &str, timestamp: &str, seconds: i64, body: &[u8]| {
        let headers = headers(&[
            ("webhook-id", "wh_685c059ae39c8190af8c71ed1022a24d"),
            ("webhook-timestamp", timestamp),
            ("webhook-signature", signature),
        ]);
        let now = DateTime::from_timestamp(seconds, 0).unwrap();
        hooks.verify(&CallHead { token: None, headers: &headers, now }, body).is_ok()
    };
    let (at, sent) = ("1750861210", 1_750_861_210);
    assert!(verdict(good, at, sent, body));
    assert!(verdict(good, at, sent + 300, body) && verdict(good, at, sent - 300, body));
    assert!(!verdict(good, at, sent + 301, body) && !verdict(good, at, sent - 301, body));
    assert!(verdict(&format!("v1,AAAA v2,{} {good}", &good[3..]), at, sent, body), "one of several");
    assert!(!verdict(&good.replace("v1,", "v2,"), at, sent, body));
    assert!(!verdict(&good.replace("gUAg", "hUAg"), at, sent, body));
    assert!(!verdict(good, "1750861211", sent, body));
    assert!(!verdict(good, "soon", sent, body) && !verdict("", at, sent, body));
    assert!(!verdict(good, at, sent, &body[1..]));
    let nine = format!("{}{good}", "v1,AAAA ".repeat(8));
    assert!(!verdict(&nine, at, sent, body), "so many are not looked at");
    for none in ["", "whsec_", "whsec_!!!", "whsec_AAAA", "RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c="] {
        let Err(error) = StandardWebhooks::new(&Secret::new(none)) else { panic!("{none:?} is taken for a secret") };
        let error = error.to_string();
        assert!(!error.contains("Rdva"), "{error}");
    }
}

struct FalKey(Ed25519KeyPair);

impl FalKey {
    fn new() -> FalKey {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        FalKey(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
    }

    fn published(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref())})
    }

    fn sign(&self, at: DateTime<Utc>, body: &[u8]) -> HeaderMap {
        let hash = ring::digest::digest(&ring::digest::SHA256, body);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let message = format!("req-1\nuser-1\n{}\n{}", at.timestamp(), hex(hash.as_ref()));
        headers(&[
            ("x-fal-webhook-request-id", "req-1"),
            ("x-fal-webhook-user-id", "user-1"),
            ("x-fal-webhook-timestamp", &at.timestamp().to_string()),
            ("x-fal-webhook-signature", &hex(self.0.sign(message.as_bytes()).as_ref())),
        ])
    }
}

const FAL_BODY: &[u8] =
    br#"{"request_id": "req-1", "gateway_request_id": "req-2", "status": "OK", "payload": {"seed": 7}}"#;

#[tokio::test]
async fn fal_signs_the_bytes_that_came_and_not_others() {
    let key = FalKey::new();
    let server =
        Server::start([reply(200, json!({"keys": [FalKey::new().published(), key.published(), {"kty": "EC"}]}))]).await;
    let desk = desk(fal(), Some(&server), None);
    let now = Utc::now();
    let verify = async |headers: &HeaderMap, body: &[u8], now| {
        desk.verify(&CallHead { token: Some(("t", AttemptId::generate())), headers, now }, body).await
    };
    let signed = key.sign(now, FAL_BODY);
    assert_eq!(verify(&signed, FAL_BODY, now).await, news("req-1"));
    let failed = br#"{"request_id": "req-1", "status": "ERROR", "error": "Invalid status code: 422", "payload": null}"#;
    assert_eq!(verify(&key.sign(now, failed), failed, now).await, news("req-1"));
    let unreadable = Ok(Some(CallbackNews { job: None, ended: false }));
    assert_eq!(verify(&key.sign(now, b"no json"), b"no json", now).await, unreadable);

    assert!(is_forged(&verify(&signed, &FAL_BODY[1..], now).await));
    assert!(is_forged(&verify(&signed, FAL_BODY, now + TimeDelta::seconds(302)).await));
    assert!(is_forged(&verify(&signed, FAL_BODY, now - TimeDelta::seconds(302)).await));
    assert!(is_forged(&verify(&FalKey::new().sign(now, FAL_BODY), FAL_BODY, now).await));
    for name in ["request-id", "user-id", "timestamp", "signature"] {
        let name: HeaderName = format!("x-fal-webhook-{name}").parse().unwrap();
        let mut changed = signed.clone();
        changed.insert(name.clone(), HeaderValue::from_static("17"));
        assert!(is_forged(&verify(&changed, FAL_BODY, now).await), "{name}");
        changed.remove(&name);
        assert!(is_forged(&verify(&changed, FAL_BODY, now).await), "{name}");
    }
    let call = CallHead { token: None, headers: &signed, now };
    assert_eq!(desk.verify(&call, FAL_BODY).await, Err(CallbackRefusal::NotOffered));
    assert_eq!(server.seen().len(), 1, "whatever came in, the keys were fetched once");
}

#[tokio::test]
async fn keys_are_kept_exchanged_and_given_up_in_time() {
    let (old, new) = (FalKey::new(), FalKey::new());
    let keys = |key: &FalKey| reply(200, json!({"keys": [key.published()]}));
    let server = Server::start([reply(500, "away"), keys(&old), keys(&new), reply(404, json!({"keys": []}))]).await;
    let set = KeySet::new(server.base.clone(), &Egress::new()).unwrap();
    let verify = async |key: &FalKey| {
        let signature = key.0.sign(b"message");
        set.any(|key| key.is_ed25519(b"message", signature.as_ref())).await
    };
    assert!(matches!(verify(&old).await, Err(CallbackRefusal::NoKeys(why)) if why.contains("500")));
    assert!(matches!(verify(&old).await, Err(CallbackRefusal::NoKeys(_))));
    assert_eq!(server.seen().len(), 1, "not again at once");
    set.age(Duration::from_secs(6));
    assert_eq!(verify(&old).await, Ok(true));
    assert_eq!(verify(&new).await, Ok(false), "newer keys are asked for once a minute");
    assert_eq!(server.seen().len(), 2);
    set.age(Duration::from_secs(61));
    assert_eq!(verify(&new).await, Ok(true));
    assert_eq!(verify(&old).await, Ok(false), "a key that is no longer published");
    assert_eq!(server.seen().len(), 3);
    // from now on there are none to be had
    set.age(Duration::from_secs(13 * 3600));
    assert_eq!(verify(&new).await, Ok(true));
    assert_eq!(server.seen().len(), 4, "and yet they were asked for");
    set.age(Duration::from_secs(12 * 3600));
    assert!(matches!(verify(&new).await, Err(CallbackRefusal::NoKeys(_))));
}

#[tokio::test]
async fn no_redirect_and_no_flood_of_keys_is_followed() {
    let elsewhere = Server::start([reply(200, json!({"keys": [FalKey::new().published()]}))]).await;
    for answer in [
        reply(302, "").with("location", elsewhere.base.as_str()),
        reply(200, json!({"keys": "x".repeat(100 << 10)})),
        reply(200, "no json"),
        reply(200, json!({"keys": [{"kty": "EC"}]})),
        reply(200, json!([])),
    ] {
        let server = Server::start([answer]).await;
        let desk = desk(fal(), Some(&server), None);
        let (now, token) = (Utc::now(), Some(("t", AttemptId::generate())));
        let signed = FalKey::new().sign(now, FAL_BODY);
        let verdict = desk.verify(&CallHead { token, headers: &signed, now }, FAL_BODY).await;
        assert!(matches!(verdict, Err(CallbackRefusal::NoKeys(_))), "{verdict:?}");
    }
    assert!(elsewhere.seen().is_empty());
}

fn rsa() -> RsaKeyPair {
    use base64::engine::general_purpose::STANDARD;
    let text: String = RSA_KEY.lines().filter(|line| !line.starts_with('-')).collect();
    RsaKeyPair::from_pkcs8(&STANDARD.decode(text).unwrap()).unwrap()
}

fn published_rsa(id: &str) -> Value {
    let parts = RsaPublicKeyComponents::<Vec<u8>>::from(rsa().public());
    let number = |bytes: Vec<u8>| URL_SAFE_NO_PAD.encode([vec![0], bytes].concat());
    json!({"kty": "RSA", "alg": "RS256", "kid": id, "n": number(parts.n), "e": number(parts.e)})
}

fn jwt(header: &Value, claims: &Value) -> String {
    let key = rsa();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_jwt_of_google_names_a_job_only_where_it_speaks_of_this_address() {
    let server = Server::start([reply(200, json!({"keys": [published_rsa("k1")]}))]).await;
    let desk = desk(ProviderKind::GeminiOmni, Some(&server), Some(SECRET));
    let addresses = base("https://v.example.com").of_account(&account("main", ProviderKind::GeminiOmni)).unwrap();
    let attempt = AttemptId::generate();
    let (token, now) = (addresses.token(attempt), Utc::now());
    let here = addresses.of_attempt(attempt);
    let header = json!({"alg": "RS256", "kid": "k1"});
    let verify = async |header: &Value, claims: &Value, body: &str| {
        let headers = headers(&[("webhook-signature", &jwt(header, claims))]);
        let token = Some((token.as_str(), attempt));
        desk.verify(&CallHead { token, headers: &headers, now }, body.as_bytes()).await
    };
    let body = r#"{"type": "interaction.completed", "version": "v1", "data": {"id": "int_1"}}"#;
    let at = now.timestamp();
    let claims = json!({"iat": at, "exp": at + 300, "aud": here.as_str()});
    assert_eq!(verify(&header, &claims, body).await, news("int_1"));
    let several = json!({"iat": at, "aud": ["x", here.as_str()]});
    assert_eq!(verify(&json!({"alg": "RS256"}), &several, body).await, news("int_1"));
    let metadata = json!({"exp": at + 1, "aud": "our-project", "user_metadata": {"attempt": token}});
    assert_eq!(verify(&header, &metadata, body).await, news("int_1"));
    let repeated = json!({"iat": at, "aud": here.as_str(), "type": "video.generated",
        "data": {"id": "models/veo-x/operations/op_7"}});
    assert_eq!(verify(&header, &repeated, body).await, news("op_7"), "what is signed counts");
    for elsewhere in [json!("https://evil.example/hook"), json!(null), json!([])] {
        let unbound = json!({"iat": at, "aud": elsewhere, "user_metadata": {"attempt": "another"}});
        let wakes = Ok(Some(CallbackNews { job: None, ended: true }));
        assert_eq!(verify(&header, &unbound, body).await, wakes, "{unbound}");
    }
    let batch = r#"{"type": "batch.succeeded", "data": {"id": "b"}}"#;
    assert_eq!(verify(&header, &claims, batch).await, Ok(None));
    assert_eq!(verify(&header, &claims, "no json").await, Ok(None));

    for (header, claims) in [
        (json!({"alg": "none", "kid": "k1"}), claims.clone()),
        (json!({"alg": "HS256", "kid": "k1"}), claims.clone()),
        (json!({"alg": "RS256", "kid": "k2"}), claims.clone()),
        (header.clone(), json!({"aud": here.as_str()})),
        (header.clone(), json!({"aud": here.as_str(), "exp": at - 61})),
        (header.clone(), json!({"aud": here.as_str(), "exp": i64::MAX, "iat": at - 301})),
    ] {
        assert!(is_forged(&verify(&header, &claims, body).await), "{header} {claims}");
    }
    let mut signed = jwt(&header, &claims);
    signed.insert(40, 'A');
    for text in [signed.as_str(), "", "..", "a.b.c", "v1,AAAA"] {
        let headers = headers(&[("webhook-signature", text)]);
        let call = CallHead { token: Some((&token, attempt)), headers: &headers, now };
        assert!(is_forged(&desk.verify(&call, body.as_bytes()).await), "{text}");
        assert!(matches!(desk.glance(&call), Err(CallbackRefusal::Forged(_))), "{text}");
    }
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_hook_for_a_project_needs_its_secret_and_says_nothing_of_other_things() {
    let sign = |body: &str| {
        let now = Utc::now();
        let webhook = standardwebhooks::Webhook::new(SECRET).unwrap();
        let signature = webhook.sign("msg_1", now.timestamp(), body.as_bytes()).unwrap();
        let timestamp = now.timestamp().to_string();
        headers(&[("webhook-id", "msg_1"), ("webhook-timestamp", &timestamp), ("webhook-signature", &signature)])
    };
    let verify = async |desk: &CallbackAccount, body: &str| {
        let headers = sign(body);
        desk.verify(&CallHead { token: None, headers: &headers, now: Utc::now() }, body.as_bytes()).await
    };
    let openai = desk(ProviderKind::OpenaiVideos, None, Some(SECRET));
    let event = |kind: &str| json!({"object": "event", "type": kind, "data": {"id": "video_1"}}).to_string();
    assert_eq!(verify(&openai, &event("video.completed")).await, news("video_1"));
    assert_eq!(verify(&openai, &event("video.failed")).await, news("video_1"));
    let running = Ok(Some(CallbackNews { job: Some("video_1".to_owned()), ended: false }));
    assert_eq!(verify(&openai, &event("video.in_progress")).await, running);
    assert_eq!(verify(&openai, &event("response.completed")).await, Ok(None));
    assert_eq!(verify(&openai, r#"{"type": "video.completed", "data": {"id": "a b"}}"#).await, Ok(None));
    let other = desk(ProviderKind::OpenaiVideos, None, Some("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="));
    assert!(is_forged(&verify(&other, &event("video.completed")).await));
    let google = desk(ProviderKind::GeminiOmni, None, Some(SECRET));
    assert_eq!(verify(&google, r#"{"type": "interaction.failed", "data": {"id": "int_1"}}"#).await, news("int_1"));
    let without = desk(ProviderKind::GeminiOmni, None, None);
    assert_eq!(verify(&without, "{}").await, Err(CallbackRefusal::NotOffered));
}

#[test]
fn what_needs_no_body_is_refused_without_one() {
    let keys = "http://127.0.0.1:9/keys";
    let account = |kind, secret| {
        let mut config = Config::from_sources("", []).unwrap();
        let mut account = account("main", kind);
        account.callbacks.keys_url = Some(keys.parse().unwrap());
        account.callbacks.secret = secret;
        config.set_provider(account);
        let desk = CallbackDesk::from_config(&config, &Egress::new(), &base("https://v.example.com")).unwrap();
        desk.account("main").unwrap()
    };
    let now = Utc::now();
    let late = now - TimeDelta::seconds(302);
    let hook = |at: DateTime<Utc>| {
        let at = at.timestamp().to_string();
        headers(&[("webhook-id", "msg_1"), ("webhook-timestamp", &at), ("webhook-signature", "v1,AAAA")])
    };
    let signed_by_google = |at: DateTime<Utc>| {
        let jwt = jwt(&json!({"alg": "RS256"}), &json!({"iat": at.timestamp()}));
        headers(&[("webhook-signature", &jwt)])
    };
    let fal_key = FalKey::new();
    let signed_by_fal = |at| fal_key.sign(at, b"");
    let token = Some(("t", AttemptId::generate()));
    let secret = || Some(Secret::new(SECRET));
    for (account, token, at_its_time, too_late) in [
        (account(fal(), None), token, signed_by_fal(now), signed_by_fal(late)),
        (account(ProviderKind::GeminiOmni, None), token, signed_by_google(now), signed_by_google(late)),
        (account(ProviderKind::GeminiOmni, secret()), None, hook(now), hook(late)),
        (account(ProviderKind::OpenaiVideos, secret()), None, hook(now), hook(late)),
    ] {
        let glance = |headers: &HeaderMap| account.glance(&CallHead { token, headers, now });
        assert_eq!(glance(&at_its_time), Ok(()));
        assert!(matches!(glance(&too_late), Err(CallbackRefusal::Forged(why)) if why.contains("too old")));
        for name in at_its_time.keys() {
            let mut without = at_its_time.clone();
            without.remove(name);
            assert!(matches!(glance(&without), Err(CallbackRefusal::Forged(why)) if why.contains("missing")), "{name}");
        }
    }
    for (account, token) in [
        (account(fal(), None), None),
        (account(ProviderKind::GeminiOmni, None), None),
        (account(ProviderKind::OpenaiVideos, secret()), token),
    ] {
        let head = CallHead { token, headers: &hook(now), now };
        assert_eq!(account.glance(&head), Err(CallbackRefusal::NotOffered));
    }
}
