//! AdamW (Loshchilov and Hutter, arXiv:1711.05101), in the order of operations of PyTorch.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Device, InplaceOp2, Layout, Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ops::cpu;
use crate::params::Array32;

/// Constants of AdamW; the defaults are PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Base learning rate.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, on every parameter.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// The optimizer: two moments for every parameter.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    vars: Vec<(String, Var)>,
    moments: Vec<Moments>,
    steps: u64,
}

/// First and second moment of one parameter.
#[derive(Debug)]
enum Moments {
    /// In memory, updated in one pass with the parameter.
    Cpu { mean: Vec<f32>, square: Vec<f32> },
    /// On a device, updated by candle's ops.
    Device { mean: Tensor, square: Tensor },
}

/// The optimizer's state on the host, for a checkpoint.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AdamWState {
    pub(crate) steps: u64,
    pub(crate) mean: Vec<Array32>,
    pub(crate) square: Vec<Array32>,
}

impl AdamWState {
    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }
}

impl AdamW {
    /// An optimizer of these parameters (f32), with moments of 0.
    ///
    /// # Errors
    /// A device without memory for the moments.
    pub fn new(vars: Vec<(String, Var)>, config: AdamWConfig) -> Result<Self> {
        let moments = vars
            .iter()
            .map(|(_, var)| match var.device() {
                Device::Cpu => {
                    let zeros = vec![0.0; var.elem_count()];
                    Ok(Moments::Cpu { mean: zeros.clone(), square: zeros })
                }
                _ => Ok(Moments::Device { mean: var.zeros_like()?, square: var.zeros_like()? }),
            })
            .collect::<Result<_>>()?;
        Ok(Self { config, vars, moments, steps: 0 })
    }

    /// The constants.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Takes one step with learning rate `lr`. A parameter without a gradient is left as it is, as in PyTorch.
    ///
    /// # Errors
    /// A gradient of another shape or type than its parameter.
    pub fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        self.steps += 1;
        let rates = Rates::at(&self.config, self.steps, lr);
        for ((_, var), moments) in self.vars.iter().zip(&mut self.moments) {
            let Some(grad) = grads.get(var) else { continue };
            match moments {
                Moments::Cpu { mean, square } => {
                    let step = CpuStep { moments: std::cell::RefCell::new((mean, square)), rates };
                    var.inplace_op2(&grad.contiguous()?, &step)?;
                }
                Moments::Device { mean, square } => {
                    *mean = ((&*mean * rates.beta1)? + (grad * (1.0 - rates.beta1))?)?;
                    *square = ((&*square * rates.beta2)? + (grad.sqr()? * (1.0 - rates.beta2))?)?;
                    let root = ((square.sqrt()? * rates.root_scale)? + rates.eps)?;
                    let moved = ((var.as_tensor() * rates.keep)? - (mean.div(&root)? * rates.size)?)?;
                    var.set(&moved)?;
                }
            }
        }
        Ok(())
    }

    /// Sets the moments of some rows of a parameter to 0: for codewords that were moved by hand.
    ///
    /// # Errors
    /// A name that is not a parameter's, and rows that it does not have.
    ///
    /// # Shapes
    /// The parameter is [R, ...]; `rows` are below R.
    pub fn forget_rows(&mut self, name: &str, rows: &[usize]) -> Result<()> {
        let refuse = |problem: String| sidereal_core::Error::input("optimizer", problem, "this is a defect: report it");
        let Some(at) = self.vars.iter().position(|(n, _)| n == name) else {
            return Err(refuse(format!("there is no parameter {name:?}")).into());
        };
        let var = &self.vars[at].1;
        let count = var.dims().first().copied().unwrap_or(0);
        if let Some(row) = rows.iter().find(|&&row| row >= count) {
            return Err(refuse(format!("parameter {name:?} has {count} rows, not a row {row}")).into());
        }
        let width = var.elem_count() / count.max(1);
        let clear = |values: &mut [f32]| rows.iter().for_each(|&row| values[row * width..(row + 1) * width].fill(0.0));
        match &mut self.moments[at] {
            Moments::Cpu { mean, square } => {
                clear(mean);
                clear(square);
            }
            Moments::Device { mean, square } => {
                for moment in [mean, square] {
                    let mut values = moment.flatten_all()?.to_vec1::<f32>()?;
                    clear(&mut values);
                    *moment = Tensor::from_vec(values, var.dims(), var.device())?;
                }
            }
        }
        Ok(())
    }

    /// A copy of the state, on the host.
    ///
    /// # Errors
    /// A device that cannot be read.
    pub fn state(&self) -> Result<AdamWState> {
        let mut state = AdamWState { steps: self.steps, ..AdamWState::default() };
        for ((name, var), moments) in self.vars.iter().zip(&self.moments) {
            let (mean, square) = match moments {
                Moments::Cpu { mean, square } => (mean.clone(), square.clone()),
                Moments::Device { mean, square } => {
                    (mean.flatten_all()?.to_vec1::<f32>()?, square.flatten_all()?.to_vec1::<f32>()?)
                }
            };
            let array = |values| Array32 { name: name.clone(), shape: var.dims().to_vec(), values };
            state.mean.push(array(mean));
            state.square.push(array(square));
        }
        Ok(state)
    }

    /// Goes on from a state: the next steps are those that would have followed it, bit for bit.
    ///
    /// # Errors
    /// A moment that is missing or of another shape; its parameter is named, and nothing is changed.
    pub fn restore(&mut self, state: &AdamWState) -> Result<()> {
        let mut restored = Vec::with_capacity(self.vars.len());
        for (name, var) in &self.vars {
            let find = |arrays: &[Array32]| {
                arrays.iter().find(|a| a.name == *name && a.shape == var.dims()).map(|a| a.values.clone()).ok_or_else(
                    || {
                        let problem = format!("there are no moments of shape {:?} for parameter {name:?}", var.dims());
                        let mend = "resume with the configuration that the checkpoint was written with";
                        sidereal_core::Error::input("optimizer state", problem, mend)
                    },
                )
            };
            let (mean, square) = (find(&state.mean)?, find(&state.square)?);
            restored.push(match var.device() {
                Device::Cpu => Moments::Cpu { mean, square },
                device => Moments::Device {
                    mean: Tensor::from_vec(mean, var.dims(), device)?,
                    square: Tensor::from_vec(square, var.dims(), device)?,
                },
            });
        }
        self.moments = restored;
        self.steps = state.steps;
        Ok(())
    }
}

/// What one step multiplies with.
#[derive(Debug, Clone, Copy)]
struct Rates {
    beta1: f64,
    beta2: f64,
    eps: f64,
    /// `1 - lr * weight_decay`.
    keep: f64,
    /// `lr / (1 - beta1^t)`.
    size: f64,
    /// `1 / sqrt(1 - beta2^t)`.
    root_scale: f64,
}

impl Rates {
    fn at(config: &AdamWConfig, step: u64, lr: f64) -> Self {
        let t = step as f64;
        Self {
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            keep: 1.0 - lr * config.weight_decay,
            size: lr / (1.0 - config.beta1.powf(t)),
            root_scale: 1.0 / (1.0 - config.beta2.powf(t)).sqrt(),
        }
    }
}

/// Parameter and both moments in one pass over memory.
struct CpuStep<'a> {
    moments: std::cell::RefCell<(&'a mut Vec<f32>, &'a mut Vec<f32>)>,
    rates: Rates,
}

impl InplaceOp2 for CpuStep<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        weight_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> candle_core::Result<()> {
        let grad = cpu::slice(grad, grad_layout)?;
        let weight = cpu::slice_mut(weight, weight_layout)?;
        let mut moments = self.moments.borrow_mut();
        let (mean, square) = &mut *moments;
        if weight.len() != grad.len() || weight.len() != mean.len() || weight.len() != square.len() {
            candle_core::bail!("adamw: the gradient has {} values, the parameter {}", grad.len(), weight.len());
        }
        let rates = self.rates;
        weight
            .par_chunks_mut(cpu::CHUNK)
            .zip(mean.par_chunks_mut(cpu::CHUNK))
            .zip(square.par_chunks_mut(cpu::CHUNK))
            .zip(grad.par_chunks(cpu::CHUNK))
            .for_each(|(((weight, mean), square), grad)| update(weight, mean, square, grad, rates));
        Ok(())
    }
}

cpu::vectorised! {
    fn update(weight: &mut [f32], mean: &mut [f32], square: &mut [f32], grad: &[f32], rates: Rates) {
        let (beta1, rest1) = (rates.beta1 as f32, (1.0 - rates.beta1) as f32);
        let (beta2, rest2) = (rates.beta2 as f32, (1.0 - rates.beta2) as f32);
        let (keep, size, root_scale, eps) =
            (rates.keep as f32, rates.size as f32, rates.root_scale as f32, rates.eps as f32);
        for (((w, m), s), g) in weight.iter_mut().zip(mean).zip(square).zip(grad) {
            *m = beta1 * *m + rest1 * g;
            *s = beta2 * *s + rest2 * (g * g);
            *w = *w * keep - size * (*m / (s.sqrt() * root_scale + eps));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn vars() -> Vec<(String, Var)> {
        let a = Var::new(&[[1f32, -2.0], [0.5, 3.0]], &Device::Cpu).unwrap();
        let b = Var::new(&[0.1f32, -0.2, 0.3], &Device::Cpu).unwrap();
        vec![("a".to_owned(), a), ("b".to_owned(), b)]
    }

    /// Gradients that differ at every step.
    fn grads(vars: &[(String, Var)], step: usize) -> GradStore {
        let mut loss = (vars[0].1.sqr().unwrap().sum_all().unwrap() * (1.0 + step as f64)).unwrap();
        loss = (loss + vars[1].1.exp().unwrap().sum_all().unwrap()).unwrap();
        loss.backward().unwrap()
    }

    fn values(vars: &[(String, Var)]) -> Vec<f32> {
        vars.iter().flat_map(|(_, v)| v.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
    }

    #[test]
    fn forgotten_rows_start_again_and_the_others_go_on() {
        let vars = vars();
        let mut optimizer = AdamW::new(vars.clone(), AdamWConfig::default()).unwrap();
        optimizer.step(&grads(&vars, 0), 0.01).unwrap();
        let before = optimizer.state().unwrap();
        optimizer.forget_rows("a", &[1]).unwrap();
        let after = optimizer.state().unwrap();
        for (before, after) in [(&before.mean, &after.mean), (&before.square, &after.square)] {
            assert_eq!(after[0].values[..2], before[0].values[..2]);
            assert_eq!(after[0].values[2..], [0.0, 0.0]);
            assert_eq!(after[1], before[1]);
        }
        assert!(optimizer.forget_rows("a", &[2]).unwrap_err().to_string().contains("row 2"));
        assert!(optimizer.forget_rows("c", &[0]).unwrap_err().to_string().contains("\"c\""));
    }

    #[test]
    fn steps_follow_the_published_update_in_f64() {
        let vars = vars();
        let config = AdamWConfig { lr: 0.01, weight_decay: 0.1, ..AdamWConfig::default() };
        let mut optimizer = AdamW::new(vars.clone(), config).unwrap();
        let mut expected: Vec<f64> = values(&vars).iter().map(|v| f64::from(*v)).collect();
        let (mut mean, mut square) = (vec![0.0; 7], vec![0.0; 7]);
        for step in 0..20 {
            let grads = grads(&vars, step);
            let flat: Vec<f64> = vars
                .iter()
                .flat_map(|(_, v)| grads.get(v).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
                .map(f64::from)
                .collect();
            let t = step as i32 + 1;
            for i in 0..7 {
                mean[i] = 0.9 * mean[i] + 0.1 * flat[i];
                square[i] = 0.999 * square[i] + 0.001 * flat[i] * flat[i];
                let (m, s) = (mean[i] / (1.0 - 0.9f64.powi(t)), square[i] / (1.0 - 0.999f64.powi(t)));
                expected[i] = expected[i] * (1.0 - 0.01 * 0.1) - 0.01 * m / (s.sqrt() + 1e-8);
            }
            optimizer.step(&grads, 0.01).unwrap();
        }
        for (value, expected) in values(&vars).iter().zip(&expected) {
            assert!((f64::from(*value) - expected).abs() < 1e-5, "{value} {expected}");
        }
    }

    #[test]
    fn a_resumed_optimizer_continues_bit_for_bit() {
        let (straight, resumed) = (vars(), vars());
        let config = AdamWConfig { lr: 0.05, ..AdamWConfig::default() };
        let mut one = AdamW::new(straight.clone(), config).unwrap();
        let mut two = AdamW::new(resumed.clone(), config).unwrap();
        for step in 0..5 {
            one.step(&grads(&straight, step), 0.05).unwrap();
            two.step(&grads(&resumed, step), 0.05).unwrap();
        }
        let state = two.state().unwrap();
        let mut three = AdamW::new(resumed.clone(), config).unwrap();
        three.restore(&state).unwrap();
        for step in 5..10 {
            one.step(&grads(&straight, step), 0.05).unwrap();
            three.step(&grads(&resumed, step), 0.05).unwrap();
        }
        assert_eq!(values(&straight), values(&resumed));
        assert_eq!(one.state().unwrap(), three.state().unwrap());
    }

    #[test]
    fn a_state_of_another_model_names_the_parameter() {
        let mut optimizer = AdamW::new(vars(), AdamWConfig::default()).unwrap();
        let mut state = optimizer.state().unwrap();
        state.square[1].shape = vec![1, 3];
        assert!(optimizer.restore(&state).unwrap_err().to_string().contains("\"b\""));
        state.mean.clear();
        assert!(optimizer.restore(&state).unwrap_err().to_string().contains("\"a\""));
    }

    #[test]
    fn a_parameter_without_a_gradient_stays() {
        let vars = vars();
        let mut optimizer = AdamW::new(vars.clone(), AdamWConfig::default()).unwrap();
        let before = values(&vars);
        let grads = vars[0].1.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        optimizer.step(&grads, 0.1).unwrap();
        let after = values(&vars);
        assert_ne!(before[..4], after[..4]);
        assert_eq!(before[4..], after[4..]);
    }
}
