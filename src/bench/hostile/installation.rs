//! The settings of an installation whose only provider is the emulator: four vendors, each with an account that honest and
//! hostile videos share, and one aside for those that speak of the whole account.
//!
//! Every window is short, so that what would take half an hour takes seconds: an attempt 15 s, a lost answer 3 s. A film
//! may have 64 MB, hundreds of times what the honest ones have.

use std::fmt::Write as _;
use std::path::Path;

use super::kinds::Vendor;
use crate::config::MAX_REQUESTS_PER_MINUTE;

/// The settings' lines for a provider at `home` (`http://host:port`), whose key is in the variable `key`. An attempt may
/// take `deadline_secs`, and is asked about every `poll_ms`.
pub fn accounts_and_models(home: &str, key: &str, (deadline_secs, poll_ms): (u32, u32)) -> String {
    let mut text = String::new();
    for vendor in Vendor::ALL {
        let (kind, base, upstream) = match vendor {
            Vendor::Openai => ("openai_videos", "/v1", "sora-2"),
            Vendor::Veo => ("veo_gemini", "/veo/v1beta", "veo-3.1-generate-preview"),
            Vendor::Omni => ("gemini_omni", "/omni/v1beta", "gemini-omni-1.1-flash"),
            Vendor::Fal => ("fal", "/fal", "fal-ai/veo3.1/fast"),
        };
        let inputs = match vendor {
            Vendor::Fal => {
                "inputs = { \"fal-ai/veo3.1\" = { duration = \"{seconds}s\", aspect_ratio = \"{aspect_ratio}\", \
                 resolution = \"{resolution}\" } }\n"
            }
            _ => "",
        };
        for name in [vendor.shared(), vendor.aside()] {
            let written = write!(
                text,
                "\n[[provider]]\nname = \"{name}\"\nkind = \"{kind}\"\nbase_url = \"{home}{base}\"\napi_key_env = \"{key}\"\n\
                 requests_per_minute = 1000000\nmax_in_flight = 100000\npoll_interval_ms = {poll_ms}\n{inputs}\
                 \n[[model]]\nname = \"{name}\"\nprovider = \"{name}\"\nupstream = \"{upstream}\"\nprice_credits = 40\n\
                 standard_seconds = 4\nseconds = [4]\nsizes = [\"1280x720\"]\ndeadline_secs = {deadline_secs}\n"
            );
            // writing to a text does not fail
            let _ = written;
        }
    }
    text
}

/// The key of the emulator, which no customer may ever read.
pub(super) const KEY: &str = "bench-key-7f3a9c1e5d";
/// Of an installation that lives for one run.
pub(super) const MASTER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// The whole file of a run, with its data at `data` and the provider at `home`. No account rests longer than a second, and
/// none is passed over for its faults: they are what is looked at.
pub(super) fn settings(data: &Path, home: &str) -> String {
    format!(
        "data_dir = {data:?}\n\
         [engine]\npoll_ms = 50\n\
         [limits]\ndefault_requests_per_minute = {most}\ndefault_requests_per_minute_per_key = {most}\n\
         [scheduler]\ntick_ms = 20\ncool_down_secs = 1\nmax_cool_down_secs = 1\nprobe_secs = 1\ncircuit_faults = 0\n\
         [storage]\nmax_video_bytes = 67108864\n\
         [attempts]\nlookup_settle_secs = 3\nlookup_pause_ms = 500\nsubmit_timeout_secs = 8\ndownload_timeout_secs = 8\n{}",
        accounts_and_models(home, "BENCH_KEY", (15, 1000)),
        most = MAX_REQUESTS_PER_MINUTE,
    )
}
