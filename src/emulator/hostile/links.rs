//! Where a finished file is said to be. Surfaces that name a link in their answers name this one; where the file has an
//! address of its own, that one redirects to it.

use poem::Request;
use serde_json::Value;

use super::super::office::Office;
use super::forms::map_values;
use super::raw::{self, Script};
use super::words;

/// Short enough for the answer to be read, longer than any client should call.
const LONG_BYTES: usize = 900_000;

words! {
    /// What is wrong with the place.
    pub enum Link {
        Missing = "there is none",
        Data = "a data: URL",
        File = "a file: URL",
        Metadata = "the metadata service",
        /// A port of this machine, where nobody listens here and something private may elsewhere.
        LocalPort = "a port of the local machine",
        /// The provider's own control endpoint.
        Control = "a page of the provider",
        UserInfo = "a link with a user and a password",
        Long = "a link of a megabyte",
        NoUrl = "a text that is no URL",
        Circle = "a redirect to itself",
        Chain = "a chain of redirects",
        Forbidden = "403: the link has expired",
        Gone = "410",
        /// The link of every poll is another one, and all of them work.
        Changing = "a link that changes at every poll",
    }
}

impl Link {
    /// An answer with this link in place of the honest one.
    pub(super) fn rewritten(self, answer: &Value, office: &Office) -> Value {
        map_values(answer, &|value| match value.as_str().filter(|text| is_link(text)) {
            None => Some(value.clone()),
            Some(honest) => match self {
                Link::Missing => None,
                Link::Circle | Link::Chain | Link::Forbidden | Link::Gone => Some(value.clone()),
                _ => self.target(honest, office).map(Value::String),
            },
        })
    }

    /// The answer to who asks for the file where it honestly would be; `None` when he gets it.
    pub(super) fn answered(self, request: &Request, office: &Office) -> Option<Script> {
        let here = request.original_uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let host = request.header("host").unwrap_or_default();
        let status = |status| Some(raw::answer(status, "content-type: text/plain\r\n", "no"));
        let redirect = |target: &str| Some(raw::answer(302, &format!("location: {target}\r\n"), ""));
        match self {
            Link::Missing => status(404),
            Link::Forbidden => status(403),
            Link::Gone => status(410),
            Link::Circle => redirect(&format!("http://{host}{here}")),
            Link::Chain => {
                let hops = here.rsplit_once("hop=").and_then(|(_, hops)| hops.parse::<u32>().ok()).unwrap_or_default();
                let path = here.split('?').next().unwrap_or_default();
                redirect(&format!("http://{host}{path}?alt=media&hop={}", hops + 1))
            }
            Link::Changing => None,
            _ => redirect(&self.target(&format!("http://{host}{here}"), office)?),
        }
    }

    fn target(self, honest: &str, office: &Office) -> Option<String> {
        Some(match self {
            Link::Data => "data:video/mp4;base64,AAAAGGZ0eXBpc29t".to_owned(),
            Link::File => "file:///etc/passwd".to_owned(),
            Link::Metadata => "http://169.254.169.254/latest/meta-data/iam/".to_owned(),
            Link::LocalPort => "http://localhost:1/admin".to_owned(),
            Link::Control => format!("{}/control/totals", office.home),
            Link::UserInfo => office.other_host.replace("http://", "http://admin:secret@") + "/files/x",
            Link::Long => format!("{honest}{}{}", if honest.contains('?') { '&' } else { '?' }, "x".repeat(LONG_BYTES)),
            Link::NoUrl => "\\\\server\\share\u{7f}/..".to_owned(),
            Link::Changing => {
                let mark = chrono::Utc::now().timestamp_micros();
                format!("{honest}{}signature={mark}", if honest.contains('?') { '&' } else { '?' })
            }
            Link::Missing | Link::Circle | Link::Chain | Link::Forbidden | Link::Gone => return None,
        })
    }
}

fn is_link(text: &str) -> bool {
    text.starts_with("http") && text.contains("/files/")
}
