//! The data of masks, uploaded once.

use std::sync::{Arc, Mutex, PoisonError};

use wgpu_attention::tensor::{Sequences, Strides};
use wgpu_attention::{AuxBuffers, AuxData, Inputs, Problem, Result, Uploaded};

use crate::context::Context;

/// For how many devices and problems data are kept on the device.
const MOST_UPLOADS: usize = 8;

/// A tensor of one element, repeated.
const REPEATED: Strides = Strides { batch: 0, head: 0, seq: 0, dim: 0 };

/// Data that clones share, with what has been uploaded of it. So a model that passes the same options to all layers uploads once.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedAux(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    data: AuxData,
    uploads: Mutex<Vec<Upload>>,
}

/// The data under one problem on one device.
#[derive(Debug)]
struct Upload {
    context: Arc<Context>,
    problem: Problem,
    uploaded: Arc<Uploaded>,
}

/// What was uploaded, if there is anything.
#[derive(Debug)]
pub(crate) struct Auxiliary(Option<Arc<Uploaded>>);

impl Auxiliary {
    pub(crate) fn buffers(&self) -> AuxBuffers<'_> {
        match &self.0 {
            Some(uploaded) => uploaded.buffers().aux,
            None => AuxBuffers::new(),
        }
    }
}

impl SharedAux {
    pub(crate) fn new(data: AuxData) -> Self {
        Self(Arc::new(Shared { data, uploads: Mutex::default() }))
    }

    pub(crate) fn data(&self) -> &AuxData {
        &self.0.data
    }

    /// The data on the device, checked against the problem.
    ///
    /// # Errors
    /// Where data are missing or don't fit.
    pub(crate) fn upload(&self, context: &Arc<Context>, problem: &Problem) -> Result<Auxiliary> {
        let problem = data_alone(problem);
        if problem.aux_tensors().is_empty() && self.0.data == AuxData::new() {
            return Ok(Auxiliary(None));
        }
        let mut uploads = self.0.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let known = uploads
            .iter()
            .find(|upload| Arc::ptr_eq(&upload.context, context) && upload.problem == problem);
        if let Some(upload) = known {
            return Ok(Auxiliary(Some(Arc::clone(&upload.uploaded))));
        }
        let uploaded = Arc::new(self.upload_now(context, &problem)?);
        if uploads.len() == MOST_UPLOADS {
            uploads.remove(0);
        }
        let kept = Arc::clone(&uploaded);
        uploads.push(Upload { context: Arc::clone(context), problem, uploaded: kept });
        Ok(Auxiliary(Some(uploaded)))
    }

    fn upload_now(&self, context: &Context, problem: &Problem) -> Result<Uploaded> {
        let [q, k, v, _] = problem.spans()?;
        let [q, k, v] = [q, k, v].map(|span| vec![0.0; span]);
        let inputs = Inputs::new(&q, &k, &v).aux(&self.0.data);
        context.session().upload(problem, &inputs)
    }
}

/// The same problem as far as it reads data from the host, over q, k and v of one element each: uploads go by a whole problem.
/// Bias and sinks are tensors.
fn data_alone(problem: &Problem) -> Problem {
    let shape = problem.shape().head_dim(1).head_dim_v(1).sequences(Sequences::default());
    Problem::new(shape)
        .mask(problem.get_mask().clone())
        .score(problem.get_score().bias(false).sinks(false))
        .q_strides(REPEATED)
        .k_strides(REPEATED)
        .v_strides(REPEATED)
}
