# SPDX-License-Identifier: Apache-2.0
"""A model of training on several GPUs and hosts: links, all-reduce, gradient buckets, networks, charts."""
