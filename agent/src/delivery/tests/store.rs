//! A delivery over a store on disk, of an uplink with some keys.

use std::path::Path;

use super::*;

pub(super) struct Store {
    pub(super) buffer: Buffer,
    pub(super) delivery: Delivery,
    pub(super) uplink: Arc<Uplink>,
    pub(super) clock: Arc<TestClock>,
    pub(super) _commands: tokio::task::JoinHandle<()>,
}

impl Store {
    /// The uplink `cloud` of the gateway `gw`, with these keys, in `dir`; it may be told to `read`.
    pub(super) fn open(dir: &Path, keys: &str, test_clock: TestClock) -> Self {
        let config = dir.join("millrace.toml");
        let text = format!(
            "[gateway]\nid = \"gw\"\ndata_dir = \"data\"\n\n[[uplink]]\nname = \"cloud\"\n\
             url = \"mqtt://127.0.0.1\"\n{keys}\n"
        );
        std::fs::write(&config, text).unwrap();
        let loaded = crate::config::load(Some(&config), None).unwrap();
        let settings = loaded.config.uplinks.into_iter().next().unwrap();
        let test_clock = Arc::new(test_clock);
        let clock: Arc<dyn Clock> = test_clock.clone();
        let buffer = Buffer::open(Settings::new(dir.join("buffer")), clock.clone()).unwrap();
        let outbox = buffer.outbox("cloud", millrace_buffer::Start::Oldest);
        let journal = Arc::new(Journal::open(dir));
        let (commands, task) = Commands::channel("cloud", granted(), journal, clock.clone(), Echo);
        let running = tokio::spawn(task.run(tokio_util::sync::CancellationToken::new()));
        let uplink = Uplink::new(&settings);
        Self {
            buffer,
            delivery: Delivery::new(outbox, settings, uplink.clone(), clock, commands),
            uplink,
            clock: test_clock,
            _commands: running,
        }
    }

    /// These texts as samples of a device, in one commit.
    pub(super) fn append(&self, source: &str, texts: impl IntoIterator<Item = String>) {
        let registration = self
            .buffer
            .register(source, SourceKind::Device, &[text_tag()]);
        let sample = |text: String| {
            let value = Value::Text(text.as_str().into());
            millrace_tags::Sample::good(registration.tags[0], value, self.clock.now())
        };
        self.buffer
            .append(registration.source, texts.into_iter().map(sample).collect());
        self.buffer.commit().unwrap();
    }
}
