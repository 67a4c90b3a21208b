//! The kinds of problems: their stable names, statuses and remedies, the document that carries one, and what may go wrong
//! with an operation.

use poem::http::{Method, StatusCode};
use poem_openapi::Object;
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaOperation, MetaParamIn, MetaRequest, MetaResponse};
use poem_openapi::types::{ToJSON, Type};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $slug:literal $status:ident $title:literal $remedy:literal;)+) => {
        /// Why a request was refused: the last part of a problem's `type`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $($(#[$doc])* $kind),+ }

        impl Kind {
            pub const ALL: [Kind; [$(Kind::$kind),+].len()] = [$(Kind::$kind),+];

            /// The stable name.
            pub const fn slug(self) -> &'static str {
                match self { $(Kind::$kind => $slug),+ }
            }

            pub const fn status(self) -> StatusCode {
                match self { $(Kind::$kind => StatusCode::$status),+ }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Kind::$kind => $title),+ }
            }

            /// What a client should do.
            pub const fn remedy(self) -> &'static str {
                match self { $(Kind::$kind => $remedy),+ }
            }
        }
    };
}

kinds! {
    BadRequest = "bad-request" BAD_REQUEST "Bad request"
        "Read `detail`; the request cannot be understood as it is.";
    BadParameter = "bad-parameter" BAD_REQUEST "Bad parameter"
        "Correct or leave out the parameter that `errors` names.";
    NotJson = "not-json" BAD_REQUEST "Body is not JSON"
        "`detail` names the line and the column. Send one JSON object, encoded as UTF-8.";
    TooDeep = "too-deep" BAD_REQUEST "Body nested too deeply"
        "No field that is known needs more than a few levels; see the schema at /docs.";
    Unauthorized = "unauthorized" UNAUTHORIZED "API key missing or not valid"
        "Send your key in the header `X-API-Key`, whole and without quotes.";
    ForgedCallback = "forged-callback" UNAUTHORIZED "Callback not genuine"
        "For providers alone: sign the call with the key that was agreed, and send it at once to the address that was given.";
    ShortOfCredits = "short-of-credits" PAYMENT_REQUIRED "Not enough credits"
        "Send a smaller batch, wait for refunds, or buy credits for at least `shortfall`.";
    ForgedLink = "forged-link" FORBIDDEN "Link not valid"
        "Use the link exactly as the API gave it, or read the video again for a new one.";
    RoleForbids = "role-forbids" FORBIDDEN "Role does not allow this"
        "For operators alone: ask somebody whose key has the role `ops`.";
    NotFound = "not-found" NOT_FOUND "Not found"
        "Check the address and the id; batches of other tenants are not visible.";
    MethodNotAllowed = "method-not-allowed" METHOD_NOT_ALLOWED "Method not allowed"
        "Use a method that the header `Allow` names.";
    BodyTooSlow = "body-too-slow" REQUEST_TIMEOUT "Body came too slowly"
        "Repeat the request over a better line, or split the batch.";
    KeyInFlight = "key-in-flight" CONFLICT "Same request is being processed"
        "Repeat the request after `Retry-After`; with the same key it is then answered like the first.";
    BatchEnded = "batch-ended" CONFLICT "Batch has ended"
        "Read the batch; what failed was refunded, and what was delivered stays yours.";
    BatchNotEnded = "batch-not-ended" CONFLICT "Batch has not ended"
        "Wait for its end, which a webhook tells, or cancel it; then repeat the request.";
    NothingToRetry = "nothing-to-retry" CONFLICT "Nothing to retry"
        "Read the videos of the batch: none failed, or none for a type that `failure_types` names.";
    RetriedBefore = "retried-before" CONFLICT "Failed videos were retried before"
        "Follow the batches that `retried_by` of this one names; what fails there again is retried from there.";
    BatchBusy = "batch-busy" CONFLICT "Batch is busy"
        "Something else is done to the batch at this moment: repeat the request after `Retry-After`.";
    OtherCount = "other-count" CONFLICT "Not the number that was expected"
        "For operators alone: look at the preview again, and send its `batches` as `expected`.";
    ExpiredLink = "expired-link" GONE "Link expired"
        "Read the video again for a new link; there is one as long as the file is kept.";
    FilePurged = "file-purged" GONE "File no longer kept"
        "Nothing brings it back: fetch files before the `kept_until` of their `output`, or ask for a longer retention.";
    BodyTooLarge = "body-too-large" PAYLOAD_TOO_LARGE "Body too large"
        "Split the batch; make the image smaller.";
    UnsupportedMediaType = "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE "Content type not supported"
        "Send `Content-Type: application/json`; for an image, the bytes of a JPEG, PNG or WebP.";
    RangeOutside = "range-outside" RANGE_NOT_SATISFIABLE "Range outside of the file"
        "`Content-Range` names the length of the file.";
    InvalidOrder = "invalid-order" UNPROCESSABLE_ENTITY "Batch not valid"
        "Correct everything that `errors` names, each by its JSON pointer into the body, or, of a retry, into the order that is \
         retried. Nothing was frozen.";
    InvalidChange = "invalid-change" UNPROCESSABLE_ENTITY "Change not valid"
        "For operators alone: correct everything that `errors` names, each by its JSON pointer into the body.";
    ImageQuota = "image-quota" CONFLICT "Too many images kept"
        "Use images that are there already; those that no batch uses any more go by themselves after some days.";
    InvalidImage = "invalid-image" UNPROCESSABLE_ENTITY "Image not valid"
        "Send the whole file, as an image program writes it.";
    KeyReused = "key-reused" UNPROCESSABLE_ENTITY "Idempotency key used before"
        "Send a new key for a new batch; the same key only with the same body.";
    TooManyRequests = "too-many-requests" TOO_MANY_REQUESTS "Too many requests"
        "Repeat the request after `Retry-After`. `RateLimit` on every answer says how many may follow; ask for a higher limit.";
    TooManyFailedKeys = "too-many-failed-keys" TOO_MANY_REQUESTS "Too many API keys that are nobody's"
        "Find out which program at your address sends a wrong key; repeat the request after `Retry-After`.";
    Internal = "internal" INTERNAL_SERVER_ERROR "Internal error"
        "Repeat the request with the same idempotency key, and tell support the `trace_id`.";
    Unavailable = "unavailable" SERVICE_UNAVAILABLE "Temporarily unavailable"
        "Repeat the request after `Retry-After`.";
    OutcomeUnknown = "outcome-unknown" SERVICE_UNAVAILABLE "Outcome unknown"
        "Repeat the request with the same idempotency key: it is answered like the first if that was accepted.";
}

/// An error, as described by RFC 9457. Branch on `type`; `title` and `detail` are for people and may change.
#[derive(Clone, Debug, Object)]
#[oai(skip_serializing_if_is_none, skip_serializing_if_is_empty)]
pub struct Problem {
    /// The kind of problem: `/problems#` and a stable name, such as `/problems#short-of-credits`.
    #[oai(rename = "type")]
    pub problem_type: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this request and what to do.
    pub detail: String,
    /// The path that was asked for.
    pub instance: Option<String>,
    /// Names this request in our logs; also in the header `X-Trace-Id`.
    pub trace_id: Option<String>,
    /// Everything that is wrong, each with its place.
    pub errors: Vec<ProblemError>,
    /// With status 402: what the batch costs, in credits.
    pub required: Option<i64>,
    /// With status 402: what the tenant may spend, in credits.
    pub available: Option<i64>,
    /// With status 402: what is missing, in credits.
    pub shortfall: Option<i64>,
    /// Where a count was expected and is another one: what it is now.
    pub present: Option<u32>,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct ProblemError {
    /// A JSON pointer (RFC 6901) into the body, such as `/items/3/model`.
    pub pointer: Option<String>,
    /// The name of a parameter of the query, the path or a header.
    pub parameter: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}

impl Problem {
    pub const CONTENT_TYPE: &'static str = "application/problem+json";

    pub fn new(kind: Kind, detail: String, errors: Vec<ProblemError>) -> Problem {
        Problem {
            problem_type: format!("/problems#{}", kind.slug()),
            title: kind.title().to_owned(),
            status: kind.status().as_u16(),
            detail,
            instance: None,
            trace_id: None,
            errors,
            required: None,
            available: None,
            shortfall: None,
            present: None,
        }
    }

    pub fn to_text(&self) -> String {
        self.to_json_string()
    }

    /// The whole HTTP/1 answer to a connection for which there is no place: no request of it was read.
    pub fn no_place() -> Vec<u8> {
        let (kind, status) = (Kind::Unavailable, Kind::Unavailable.status());
        let detail = "too many connections are open; close those that are not used, or connect again later";
        let body = Problem::new(kind, detail.to_owned(), vec![]).to_text();
        let head = format!(
            "HTTP/1.1 {status}\r\nretry-after: {}\r\nconnection: close\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\n",
            super::RETRY_AFTER.as_secs(),
            Problem::CONTENT_TYPE,
            body.len(),
        );
        (head + &body).into_bytes()
    }
}

/// The errors of an operation, which follow from what it takes and whose it is.
pub fn responses_of(operation: &MetaOperation) -> Vec<MetaResponse> {
    match operation.security.iter().any(|scheme| scheme.contains_key(super::operator::SCHEME)) {
        true => super::operator::responses_of(operation),
        false => responses_for_customers(operation),
    }
}

fn responses_for_customers(operation: &MetaOperation) -> Vec<MetaResponse> {
    let takes = |place| operation.params.iter().any(|param| param.in_type == place);
    let (body, key) = (operation.request.is_some(), !operation.security.is_empty());
    let takes_json =
        |request: &MetaRequest| request.content.iter().any(|media| media.content_type == "application/json");
    let json = operation.request.as_ref().is_some_and(takes_json);
    let file = body && !json;
    // what is accepted to be done later costs credits
    let buys = json && operation.responses.responses.iter().any(|response| response.status == Some(202));
    let of_batch = takes(MetaParamIn::Path);
    let possible = [
        (
            takes(MetaParamIn::Query) || json,
            400,
            "The body is not JSON, or a parameter cannot be used; `errors` names it.",
        ),
        (key, 401, "The API key is missing, malformed, revoked or unknown."),
        (
            buys,
            402,
            "The batch costs more credits than are available; `required`, `available` and `shortfall` say how many.",
        ),
        (of_batch, 404, "The tenant has no such batch or image."),
        (body, 408, "The body came too slowly."),
        (file, 409, "The tenant keeps as many images, or bytes of them, as it may."),
        (
            buys && !of_batch,
            409,
            "A request with the same idempotency key is being processed; repeat it after `Retry-After`.",
        ),
        (
            buys && of_batch,
            409,
            "The batch has not ended, nothing of it is left to retry, or a request like this one is being processed: then repeat \
             it after `Retry-After`.",
        ),
        (operation.method == Method::POST && !body, 409, "The batch has ended already."),
        (body, 413, "The body is too large."),
        (file, 415, "The body is no JPEG, PNG or WebP."),
        (json, 415, "The body is not declared as `application/json`."),
        (file, 422, "The image is damaged or cut off."),
        (
            json,
            422,
            "Something is wrong with the batch: everything is listed in `errors` with JSON pointers, and nothing was frozen. \
             Also: the idempotency key was used before for another batch.",
        ),
        (
            key,
            429,
            "The API key, its tenant or the address came too often; repeat the request after `Retry-After`. Nothing was changed.",
        ),
        (true, 500, "Something went wrong on our side."),
        (true, 503, "Temporarily unavailable; repeat the request after `Retry-After`, with the same idempotency key."),
    ];
    possible.into_iter().filter(|(applies, ..)| *applies).map(|(_, status, words)| response(status, words)).collect()
}

pub(super) fn response(status: u16, description: &'static str) -> MetaResponse {
    let retry_after = MetaHeader {
        name: "RETRY-AFTER".to_owned(),
        description: Some("Seconds to wait before the request is repeated.".to_owned()),
        required: true,
        deprecated: false,
        schema: u32::schema_ref(),
    };
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType { content_type: Problem::CONTENT_TYPE, schema: Problem::schema_ref() }],
        headers: if status == 503 || description.contains("`Retry-After`") { vec![retry_after] } else { vec![] },
    }
}
