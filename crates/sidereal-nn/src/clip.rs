//! Clipping of the gradient by its norm over all parameters (Pascanu et al., arXiv:1211.5063).

use candle_core::Var;
use candle_core::backprop::GradStore;

use crate::error::Result;
use crate::ops::cpu;

/// Scales all gradients down when their joint Euclidean norm is above `max_norm`; returns the norm before.
///
/// Parameters without a gradient are passed over. The sums run in f64 over fixed chunks.
///
/// # Errors
/// A gradient that is not finite: the parameter is named, and nothing is changed.
pub fn clip_grad_norm(grads: &mut GradStore, vars: &[(String, Var)], max_norm: f64) -> Result<f64> {
    let mut total = 0.0;
    for (name, var) in vars {
        let Some(grad) = grads.get(var) else { continue };
        let square = cpu::sum_of_squares(grad)?;
        if !square.is_finite() {
            let problem = format!("the gradient of parameter {name:?} is not finite");
            let mend = "lower the learning rate, or look for extreme values in the input";
            return Err(sidereal_core::Error::input("training step", problem, mend).into());
        }
        total += square;
    }
    let norm = total.sqrt();
    if norm > max_norm {
        let factor = max_norm / (norm + 1e-6);
        for (_, var) in vars {
            if let Some(grad) = grads.remove(var) {
                grads.insert(var, cpu::scaled(&grad, factor)?);
            }
        }
    }
    Ok(norm)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;

    fn setup() -> (Vec<(String, Var)>, GradStore) {
        let a = Var::new(&[3f32, 0.0], &Device::Cpu).unwrap();
        let b = Var::new(&[[4f32]], &Device::Cpu).unwrap();
        // d/da sum(a^2)/2 = a, so the gradients are the values and the norm is 5.
        let loss =
            ((a.sqr().unwrap().sum_all().unwrap() + b.sqr().unwrap().sum_all().unwrap()).unwrap() / 2.0).unwrap();
        let grads = loss.backward().unwrap();
        (vec![("a".to_owned(), a), ("b".to_owned(), b)], grads)
    }

    #[test]
    fn a_long_gradient_is_scaled_to_the_norm() {
        let (vars, mut grads) = setup();
        assert!((clip_grad_norm(&mut grads, &vars, 1.0).unwrap() - 5.0).abs() < 1e-6);
        assert!((clip_grad_norm(&mut grads, &vars, 2.0).unwrap() - 1.0).abs() < 1e-5);
        let a = grads.get(&vars[0].1).unwrap().to_vec1::<f32>().unwrap();
        assert!((a[0] - 0.6).abs() < 1e-5 && a[1] == 0.0);
    }

    #[test]
    fn a_short_gradient_is_left_alone() {
        let (vars, mut grads) = setup();
        clip_grad_norm(&mut grads, &vars, 6.0).unwrap();
        assert_eq!(grads.get(&vars[0].1).unwrap().to_vec1::<f32>().unwrap(), [3.0, 0.0]);
    }

    #[test]
    fn a_gradient_that_is_not_finite_names_its_parameter() {
        let (vars, mut grads) = setup();
        let bad = candle_core::Tensor::new(&[[f32::NAN]], &Device::Cpu).unwrap();
        grads.insert(&vars[1].1, bad);
        let message = clip_grad_norm(&mut grads, &vars, 1.0).unwrap_err().to_string();
        assert!(message.contains("\"b\""), "{message}");
        assert_eq!(grads.get(&vars[0].1).unwrap().to_vec1::<f32>().unwrap(), [3.0, 0.0], "nothing is changed");
    }
}
