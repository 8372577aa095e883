//! The host's network: which configuration is in force, and attaching, detaching and collecting by it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use criquet_sys::step;
use serde_json::{Value, json};

use crate::config::{self, NetworkConfig};
use crate::native::plan::Plan;
use crate::native::rules::Rules;
use crate::native::{self, Attached};
use crate::record::{Record, Records};
use crate::{Attachment, Error, Options, Pod, Result, chain, result};

mod garbage;

/// kubelet asks every five seconds, and a plugin's answer costs a process.
const STATUS_LIFETIME: Duration = Duration::from_secs(5);
/// How old an attachment of this process must be before [`Network::collect`] may take it for forgotten: the
/// caller's list of pods is older than its call.
const COLLECT_GRACE: Duration = Duration::from_secs(120);

/// How long a detached pod's link is left to the end of its namespace, which takes it along at no cost; to delete
/// it waits for RCU, with the lock of all links held.
const LINK_GRACE: Duration = Duration::from_secs(1);

/// The network of this host.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    records: Records,
    rules: Rules,
    pods: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Attached by this process, and when.
    recent: Mutex<HashMap<String, Instant>>,
    /// Shared while something is attached or detached, alone while garbage is collected (CNI
    /// specification, section 3).
    working: tokio::sync::RwLock<()>,
    status: Mutex<Option<Status>>,
    validated: Mutex<Option<NetworkConfig>>,
}

/// What the plugins of a configuration answered to STATUS, and when.
#[derive(Debug)]
struct Status {
    at: Instant,
    of: NetworkConfig,
    answer: std::result::Result<(), String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error(format!("network work ended early: {error}")))?
}

impl Network {
    /// Makes the cache folder. The configuration is read when it is needed, so that a conflist may
    /// appear later.
    ///
    /// # Errors
    /// The cache folder cannot be made.
    pub fn open(options: Options) -> Result<Self> {
        let records = Records::open(&options.cache_dir)?;
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                records,
                rules: Rules::default(),
                pods: Mutex::default(),
                recent: Mutex::default(),
                working: tokio::sync::RwLock::new(()),
                status: Mutex::default(),
                validated: Mutex::default(),
            }),
        })
    }

    /// The name of the network to which pods would be attached now.
    ///
    /// # Errors
    /// Why they cannot be: no valid configuration, a missing plugin, or a plugin that says so (STATUS).
    pub async fn ready(&self) -> Result<String> {
        let inner = self.inner.clone();
        let (config, plan) = blocking(move || inner.current()).await?;
        if plan.is_ok() {
            return Ok(config.name);
        }
        let bin_dirs = &self.inner.options.bin_dirs;
        if locked(&self.inner.validated).as_ref() != Some(&config) {
            chain::validate(bin_dirs, &config).await?;
            *locked(&self.inner.validated) = Some(config.clone());
        }
        for plugin in &config.plugins {
            crate::plugin::find(bin_dirs, config::plugin_type(plugin))?;
        }
        let known = locked(&self.inner.status)
            .as_ref()
            .filter(|status| status.at.elapsed() < STATUS_LIFETIME && status.of == config)
            .map(|status| status.answer.clone());
        let answer = match known {
            Some(answer) => answer,
            None => {
                let answer = chain::status(bin_dirs, &config).await.map_err(|error| error.0);
                let status = Status {
                    at: Instant::now(),
                    of: config.clone(),
                    answer: answer.clone(),
                };
                *locked(&self.inner.status) = Some(status);
                answer
            }
        };
        answer.map(|()| config.name).map_err(Error)
    }

    /// Attaches a pod. On failure nothing stays: what was done is undone, or recorded to be. Goes on to its
    /// end when the caller goes away.
    ///
    /// # Errors
    /// One sentence that names the network, the plugin and the pod.
    pub async fn attach(&self, pod: &Pod) -> Result<Attachment> {
        let (inner, pod) = (self.inner.clone(), pod.clone());
        joined(tokio::spawn(async move { inner.attach(&pod).await })).await
    }

    /// Detaches by the recorded configuration and result, even when today's configuration is another or
    /// none, and when the namespace is gone. Unknown: success. A failed DEL stays recorded for a retry.
    ///
    /// # Errors
    /// What could not be given back.
    pub async fn detach(&self, pod_id: &str) -> Result<()> {
        let (inner, pod_id) = (self.inner.clone(), pod_id.to_owned());
        joined(tokio::spawn(async move { inner.detach(&pod_id).await })).await
    }

    /// Asks whether the attachment of a pod is still as it was made (CNI CHECK).
    ///
    /// # Errors
    /// What is wrong with it, or the pod is not attached.
    pub async fn check(&self, pod_id: &str) -> Result<()> {
        let record = self
            .inner
            .records
            .get(pod_id)?
            .ok_or_else(|| Error(format!("pod {pod_id} is not attached")))?;
        let result = self.inner.records.result(pod_id).unwrap_or_default();
        let Some(attached) = record.native.clone() else {
            return chain::check(&self.inner.options.bin_dirs, &record, &result).await;
        };
        let addresses = result::attachment(&result).map_err(Error)?.ips;
        blocking(move || native::check(&attached, &record.pod_id, &record.netns, &addresses)).await
    }

    /// Frees what belongs to none of `live`: recorded attachments, leases, packet rules, and with CNI GC what
    /// plugins hold. Retries what could not be detached. Attachments that this process made less
    /// than two minutes ago are left alone.
    ///
    /// # Errors
    /// All that failed; the rest is done.
    pub async fn collect(&self, live: &[String]) -> Result<()> {
        let (inner, live) = (self.inner.clone(), live.iter().cloned().collect());
        joined(tokio::spawn(async move { inner.collect(live).await })).await
    }

    /// Removes all that this crate made on the host: attachments, the built-in bridge and its leases,
    /// packet rules, records. Nothing can be attached afterwards: the cache folder is gone.
    ///
    /// # Errors
    /// All that failed; the rest is done.
    pub async fn wipe(&self) -> Result<()> {
        let mut problems = Vec::new();
        for id in self.inner.records.ids()? {
            if let Err(error) = self.detach(&id).await {
                problems.push(error.0);
            }
        }
        let inner = self.inner.clone();
        let wiped = blocking(move || inner.wipe()).await;
        problems.extend(wiped.err().map(|error| error.0));
        all_well(problems)
    }

    /// The configuration in force, for verbose status.
    #[must_use]
    pub fn describe(&self) -> Value {
        match self.inner.current() {
            Ok((config, plan)) => json!({
                "name": config.name, "source": config.source, "cniVersion": config.version,
                "plugins": config.plugins, "native": plan.is_ok(), "whyNotNative": plan.err(),
            }),
            Err(error) => json!({ "error": error.0 }),
        }
    }
}

/// How far an attachment came in one go.
enum Begun {
    /// There was a record already.
    Before(Record),
    Native(Record, Result<Value>),
    /// Binaries are to run.
    Chain(Record),
}

async fn joined<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await
        .map_err(|error| Error(format!("network work ended early: {error}")))?
}

/// Deletes a link that its namespace did not take along: somebody holds the namespace, and the address may soon
/// be another pod's.
fn later_delete(link: String) {
    // Always in the runtime: only its own tasks come here.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    runtime.spawn(async move {
        tokio::time::sleep(LINK_GRACE).await;
        if let Err(error) = blocking(move || native::delete_link(&link)).await {
            tracing::warn!(%error, "a pod's link stays");
        }
    });
}

fn all_well(problems: Vec<String>) -> Result<()> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error(problems.join("; ")))
    }
}

impl Inner {
    /// The configuration in force, with its plan or why there is none.
    fn current(&self) -> Result<(NetworkConfig, std::result::Result<Plan, String>)> {
        let dir = &self.options.conf_dir;
        let config = match (config::load(dir).map_err(Error)?, &self.options.builtin) {
            (Some(config), _) => config,
            (None, Some(builtin)) => {
                // There are no binaries that could do it instead.
                let config = NetworkConfig::builtin(builtin);
                let plan = Plan::of(&config, &self.options.lease_dir)
                    .map_err(|error| Error(format!("the built-in network cannot be: {error}")))?;
                return Ok((config, Ok(plan)));
            }
            (None, None) => return Err(Error(format!("no network configuration is in {}", dir.display()))),
        };
        let plan = if self.options.native {
            Plan::of(&config, &self.options.lease_dir)
        } else {
            Err("native work is switched off".into())
        };
        Ok((config, plan))
    }

    fn pod_lock(&self, pod_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut pods = locked(&self.pods);
        pods.retain(|_, lock| Arc::strong_count(lock) > 1);
        pods.entry(pod_id.to_owned()).or_default().clone()
    }

    async fn attach(self: &Arc<Self>, pod: &Pod) -> Result<Attachment> {
        let lock = self.pod_lock(&pod.id);
        let _one_per_pod = lock.lock().await;
        let _working = self.working.read().await;
        locked(&self.recent).insert(pod.id.clone(), Instant::now());
        let (inner, wanted) = (self.clone(), pod.clone());
        let mut begun = blocking(move || inner.begin(&wanted)).await?;
        if let Begun::Before(record) = begun {
            // A half one of an earlier life.
            self.undo(record).await?;
            let (inner, wanted) = (self.clone(), pod.clone());
            begun = blocking(move || inner.begin(&wanted)).await?;
        }
        let (record, added) = match begun {
            Begun::Before(record) => return Err(Error(format!("pod {} is attached already", record.pod))),
            Begun::Native(record, added) => (record, added),
            Begun::Chain(record) => {
                let added = self.attach_chain(&record).await;
                (record, added)
            }
        };
        let attachment = added.and_then(|result| {
            result::attachment(&result)
                .map_err(|problem| Error(format!("network {}: {problem}", record.config.name)))
        });
        let error = match attachment {
            Ok(attachment) => return Ok(attachment),
            Err(error) => error,
        };
        match self.undo(record).await {
            Ok(()) => Err(error),
            Err(also) => Err(Error(format!(
                "{error}; and to undo it failed, which will be retried: {also}"
            ))),
        }
    }

    /// Records the attachment, and makes it if that is done in process.
    fn begin(&self, pod: &Pod) -> Result<Begun> {
        if let Some(record) = self.records.get(&pod.id)? {
            return Ok(Begun::Before(record));
        }
        let (config, plan) = self.current()?;
        let ports: Vec<_> = pod
            .ports
            .iter()
            .filter(|port| port.host_port != 0)
            .cloned()
            .collect();
        let native = plan
            .as_ref()
            .ok()
            .map(|plan| Attached::of(plan, &config.name, &ports));
        let record = Record::new(pod, config, native)?;
        self.records.begin(&record)?;
        step::reached("run.network_recorded");
        let plan = match plan {
            Ok(plan) => plan,
            Err(why) => {
                tracing::debug!(network = record.config.name, why, "plugins run as binaries");
                return Ok(Begun::Chain(record));
            }
        };
        let request = native::Request {
            pod_id: &record.pod_id,
            netns: &record.netns,
            network: &record.config.name,
            version: &record.config.version,
            plan: &plan,
            ports: &ports,
        };
        let added = native::attach(&request, &self.rules)
            .map_err(|error| {
                Error(format!(
                    "network {} of pod {}: {error}",
                    record.config.name, record.pod
                ))
            })
            .and_then(|result| {
                step::reached("run.network_made");
                self.records
                    .finish(&record.pod_id, &result, false)
                    .map(|()| result)
            });
        Ok(Begun::Native(record, added))
    }

    async fn attach_chain(self: &Arc<Self>, record: &Record) -> Result<Value> {
        let netns = record.netns.clone();
        blocking(move || native::loopback_up(&netns)).await?;
        let result = chain::add(&self.options.bin_dirs, record).await?;
        let (inner, id, kept) = (self.clone(), record.pod_id.clone(), result.clone());
        blocking(move || inner.records.finish(&id, &kept, true)).await?;
        Ok(result)
    }

    async fn detach(self: &Arc<Self>, pod_id: &str) -> Result<()> {
        let lock = self.pod_lock(pod_id);
        let _one_per_pod = lock.lock().await;
        let _working = self.working.read().await;
        let (inner, id) = (self.clone(), pod_id.to_owned());
        let left = blocking(move || match inner.records.get(&id)? {
            Some(record) => inner.undo_native(record),
            None => Ok(None),
        });
        if let Some(record) = left.await? {
            self.undo_chain(&record).await?;
        }
        locked(&self.recent).remove(pod_id);
        Ok(())
    }

    /// Gives back what the record says, and then forgets it.
    async fn undo(self: &Arc<Self>, record: Record) -> Result<()> {
        let inner = self.clone();
        match blocking(move || inner.undo_native(record)).await? {
            Some(record) => self.undo_chain(&record).await,
            None => Ok(()),
        }
    }

    /// Gives the record back if it is one of binaries.
    fn undo_native(&self, record: Record) -> Result<Option<Record>> {
        let Some(attached) = &record.native else {
            return Ok(Some(record));
        };
        let failed = |error| {
            Error(format!(
                "network {} of pod {}: {error}",
                record.config.name, record.pod
            ))
        };
        let result = self.records.result(&record.pod_id);
        let known = result.as_ref().and_then(|result| result::attachment(result).ok());
        native::detach(
            attached,
            &record.pod_id,
            known.map(|attachment| attachment.ips),
            &self.rules,
        )
        .map_err(failed)?;
        match result.as_ref().and_then(native::host_link) {
            Some(link) => later_delete(link),
            None => native::delete_pod_link(&record.netns).map_err(failed)?,
        }
        self.records.remove(&record.pod_id)?;
        Ok(None)
    }

    async fn undo_chain(self: &Arc<Self>, record: &Record) -> Result<()> {
        let result = self.records.result(&record.pod_id);
        chain::delete(&self.options.bin_dirs, record, result.as_ref()).await?;
        let (inner, id) = (self.clone(), record.pod_id.clone());
        blocking(move || inner.records.remove(&id)).await
    }
}
