# The image of deploy/ray-job.yaml. Build it in the root of the repository:
#   docker build -f deploy/ray.Dockerfile -t registry.example/emodistill-ray:1 .
# The base image has Ray (Apache-2.0) and the programs with which KubeRay checks a pod. Its Ray must be the one of
# constraints.txt and of `rayVersion` in ray-job.yaml.
FROM rayproject/ray:2.60.0-py312
WORKDIR /opt/emodistill
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
USER 0
RUN pip install --no-cache-dir --constraint constraints.txt '.[scale]'
USER 1000
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 EMODISTILL_CACHE=/tmp/emodistill
