"""What no paper has: initialization, optimizers, distillation, callbacks, and the slim encoder."""
