//! Whoever asks, on threads of its own: so that its processor time is told from the server's,
//! which runs in the same process.

use std::fs;
use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

/// What its threads are called.
const NAME: &str = "load";

/// A runtime for the load, and for nothing else.
pub(crate) struct Generator(Option<Runtime>);

impl Generator {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.thread_name(NAME).enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs it there, and whatever it spawns.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        load: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<T> {
        let runtime = self.0.as_ref().context("the load is over")?;
        runtime.spawn(load).await.context("the load panicked")?
    }

    /// Processor time that it has used.
    ///
    /// # Errors
    /// Where the kernel does not count it by thread.
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        let mut nanos = 0;
        for thread in fs::read_dir("/proc/self/task")? {
            let folder = thread?.path();
            // A thread that has ended meanwhile is none of its own: those stay.
            let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
            if name.trim_end() != NAME {
                continue;
            }
            let times = fs::read_to_string(folder.join("schedstat"))?;
            let used = times.split(' ').next().context("a strange schedstat")?;
            nanos += used.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanos))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Dropped where nobody may wait.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_its_own_threads_are_counted() {
        let load = Generator::new().unwrap();
        let burn = || {
            let begun = std::time::Instant::now();
            let mut sum = 0_u64;
            while begun.elapsed() < Duration::from_millis(100) {
                sum = std::hint::black_box(sum + 1);
            }
            sum
        };
        let before = load.processor_time().unwrap();
        burn();
        let idle = load.processor_time().unwrap() - before;
        load.run(async move { Ok(burn()) }).await.unwrap();
        let busy = load.processor_time().unwrap() - before;
        assert!(busy > idle, "{busy:?} after {idle:?}");
    }
}
