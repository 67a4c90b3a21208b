//! The documentation that the service itself serves, without anything from elsewhere: the OpenAPI document, a page to read
//! and try it, and the list of problems that every error's `type` leads to.
//!
//! Always holds: the pages run no script but their own, named by its hash in the content security policy.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use poem::endpoint::make_sync;
use poem::http::header::{self, HeaderName};
use poem::{Endpoint, Request, Response, get};
use ring::digest;

use super::error::{Kind, NOT_MODIFIED};

/// An answer that is made once, when the service starts.
struct Page {
    content_type: &'static str,
    content_security_policy: String,
    etag: String,
    body: Bytes,
}

impl Page {
    fn new(content_type: &'static str, content_security_policy: String, body: String) -> Page {
        let etag = format!("\"{}\"", sha256(&body));
        Page { content_type, content_security_policy, etag, body: body.into() }
    }

    fn answer(&self, request: &Request) -> Response {
        let known = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
        let answer = Response::builder()
            .header(header::ETAG, &self.etag)
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::REFERRER_POLICY, "no-referrer")
            .header(header::CONTENT_SECURITY_POLICY, &self.content_security_policy);
        if known(header::IF_NONE_MATCH) == Some(&self.etag) {
            return answer.status(NOT_MODIFIED).finish();
        }
        answer.content_type(self.content_type).body(self.body.clone())
    }

    fn endpoint(self) -> impl Endpoint + 'static {
        let page = Arc::new(self);
        get(make_sync(move |request| page.answer(&request)))
    }
}

/// The OpenAPI document.
pub fn document(json: String) -> impl Endpoint + 'static {
    Page::new("application/json", "default-src 'none'".to_owned(), json).endpoint()
}

/// The page to read and try the API; `html` holds its scripts and styles.
pub fn reference(html: &str) -> impl Endpoint + 'static {
    let title =
        "<title>Freezeframe API</title>\n    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">";
    let html = format!("<!doctype html>\n{}", html.trim_start().replace("<title>Swagger UI</title>", title));
    // the page's styles are set by its script, so their hashes are not known beforehand
    let policy = format!(
        "default-src 'none'; script-src {}; style-src 'unsafe-inline'; img-src 'self' data:; font-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        script_hashes(&html)
    );
    Page::new("text/html; charset=utf-8", policy, html).endpoint()
}

/// What each `type` of a problem means.
pub fn problems() -> impl Endpoint + 'static {
    let rows: String = Kind::ALL
        .into_iter()
        .map(|kind| {
            format!(
                "<section id=\"{slug}\"><h2>{title}</h2><p><code>/problems#{slug}</code>, status {status}</p><p>{remedy}</p></section>\n",
                slug = kind.slug(),
                title = kind.title(),
                status = kind.status().as_u16(),
                remedy = code_spans(kind.remedy()),
            )
        })
        .collect();
    let html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Freezeframe API: problems</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>{STYLE}</style></head>\n<body>\
         <h1>Problems</h1><p>Errors are <code>application/problem+json</code> (RFC 9457). Branch on <code>type</code>; \
         <code>errors</code> lists everything that is wrong, each with a JSON pointer or a parameter.</p>\n{rows}</body></html>\n"
    );
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    Page::new("text/html; charset=utf-8", policy.to_owned(), html).endpoint()
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1c1e21}\
                     h2{margin:1.5rem 0 0;font-size:1.1rem}p{margin:.25rem 0}code{background:#eef0f3;padding:.1em .3em}\
                     section:target{background:#fff6d6;outline:.5rem solid #fff6d6}";

/// Words between backticks as `code`. The text is our own and holds no markup.
fn code_spans(text: &str) -> String {
    let part = |(at, part): (usize, &str)| if at % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() };
    text.split('`').enumerate().map(part).collect()
}

fn sha256(text: &str) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// The inline scripts of a page as sources of a content security policy.
fn script_hashes(html: &str) -> String {
    let mut sources = Vec::new();
    let mut rest = html;
    while let Some((_, after)) = rest.split_once("<script") {
        let Some((_, script)) = after.split_once('>') else { break };
        let Some((script, after)) = script.split_once("</script>") else { break };
        // browsers read line ends as \n before they hash
        sources.push(format!("'sha256-{}'", sha256(&script.replace("\r\n", "\n"))));
        rest = after;
    }
    sources.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{code_spans, script_hashes};

    #[test]
    fn every_inline_script_is_named_by_its_hash() {
        // `printf 'alert(1)' | openssl dgst -sha256 -binary | base64`
        let hash = "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='";
        assert_eq!(script_hashes("<p></p><script charset=\"UTF-8\">alert(1)</script><b></b>"), hash);
        assert_eq!(script_hashes("<script>alert(1)</script>\n<script>alert(1)</script>"), format!("{hash} {hash}"));
        assert_eq!(script_hashes("<p></p>"), "");
    }

    #[test]
    fn backticks_become_code() {
        assert_eq!(code_spans("send `a` or `b`."), "send <code>a</code> or <code>b</code>.");
    }
}
