//! The processes of the apps' pods: which of them have been started.

use anyhow::Context as _;

use crate::launch::Program;
use crate::members::{Index, Members};

/// A pod, by the index of its app and its index in the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PodId {
    pub(crate) app: usize,
    pub(crate) pod: usize,
}

#[derive(Debug)]
struct One {
    program: Program,
    /// Set once the pod has been started. It stays the same when the pod is stopped and started
    /// again.
    member: Option<Index>,
}

/// All pods of the run.
#[derive(Debug, Default)]
pub(crate) struct PodSet(Vec<Vec<One>>);

impl PodSet {
    /// Pods of which none runs; `programs` has a list for each app.
    pub(crate) fn new(programs: Vec<Vec<Program>>) -> Self {
        let one = |program| One {
            program,
            member: None,
        };
        let apps = programs.into_iter();
        Self(
            apps.map(|pods| pods.into_iter().map(one).collect())
                .collect(),
        )
    }

    /// Starts a pod for the first time.
    ///
    /// # Errors
    /// Its program cannot be executed, or there is no such pod.
    pub(crate) fn start(&mut self, members: &mut Members, id: PodId) -> anyhow::Result<()> {
        let one = self.get_mut(id).context("there is no such pod")?;
        one.member = Some(members.add(one.program.clone())?);
        Ok(())
    }

    /// Starts a pod that does not run. If its program cannot be executed, that is logged and tried
    /// again, as for a process that ends.
    pub(crate) fn start_again(&mut self, members: &mut Members, id: PodId) {
        if let Some(one) = self.get_mut(id) {
            let program = &one.program;
            let member = *one
                .member
                .get_or_insert_with(|| members.keep(program.clone()));
            members.start_again(member);
        }
    }

    fn get_mut(&mut self, id: PodId) -> Option<&mut One> {
        self.0.get_mut(id.app)?.get_mut(id.pod)
    }

    /// The process of a pod that has been started.
    pub(crate) fn member(&self, id: PodId) -> Option<Index> {
        self.0.get(id.app)?.get(id.pod)?.member
    }

    /// The pod of a process; `None` if the process is no pod.
    pub(crate) fn find(&self, member: Index) -> Option<PodId> {
        self.0.iter().enumerate().find_map(|(app, pods)| {
            let pod = pods.iter().position(|one| one.member == Some(member))?;
            Some(PodId { app, pod })
        })
    }

    /// The processes of all pods that have been started.
    pub(crate) fn members(&self) -> Vec<Index> {
        let all = self.0.iter().flatten();
        all.filter_map(|one| one.member).collect()
    }
}
